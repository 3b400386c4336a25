"""Mixed precision: weights in float32, products of matrices in bfloat16."""

import torch


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """A context in which matrices are multiplied in bfloat16; one that changes nothing if not enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
