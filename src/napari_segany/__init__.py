"""Segment Anything for microscopists: the public names, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.errors import SegAnyError
    from .core.types import Box, FrameMasks, MaskPrediction, Points, Prompt, ScoredMask

__version__ = "0.1.0"

__all__ = [
    "Box",
    "FrameMasks",
    "MaskPrediction",
    "Points",
    "Prompt",
    "ScoredMask",
    "SegAnyError",
    "__version__",
]

# Where each public name lives. A name is listed once its module exists, not before.
_HOMES = {
    "Box": "core.types",
    "FrameMasks": "core.types",
    "MaskPrediction": "core.types",
    "Points": "core.types",
    "Prompt": "core.types",
    "ScoredMask": "core.types",
    "SegAnyError": "core.errors",
}


def __getattr__(name: str) -> object:
    """Import the home of a public name on first use, and keep the name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
