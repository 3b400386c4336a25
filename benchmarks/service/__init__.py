"""The whole service over real gRPC, against an empty RPC of the same server with the same reply."""
