"""What a training step costs, and which part of it is the service."""
