"""Models whose every parameter has a value: tables start at zero, which would hide what they do."""

from __future__ import annotations

from typing import TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def randomised(module: M, *, seed: int = 3) -> M:
    """Return a module for inference with noise added to every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()
