"""One method per RPC of a `ReplicaHost`, in one module per subject."""
