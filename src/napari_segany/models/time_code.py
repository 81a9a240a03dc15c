"""How many frames ago, as a code that a network can read."""

from __future__ import annotations

import torch
from torch import Tensor


def time_code(times: Tensor, width: int, *, temperature: float = 10000.0) -> Tensor:
    """Return the (N, width) sine code of (N,) times: all sines, then all cosines, frequencies in pairs."""
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=times.device)
    period = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    angle = times[:, None] / period  # (N, width / 2)
    return torch.cat((angle.sin(), angle.cos()), dim=1)
