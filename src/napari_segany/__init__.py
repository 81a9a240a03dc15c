"""Segment Anything for microscopists: the public names, imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .core.errors import SegAnyError
    from .core.types import Box, FrameMasks, MaskPrediction, Points, Prompt, ScoredMask
    from .io.images import open_image
    from .io.label_store import LabelStore
    from .models.registry import ModelSpec, list_models
    from .predict.automatic import AutomaticSegmenter
    from .predict.image import ImagePredictor
    from .predict.loading import load_model
    from .predict.video import VideoPredictor
    from .session.image import ImageSession
    from .session.volume import VolumeSession

__version__ = "0.1.0"

__all__ = [
    "AutomaticSegmenter",
    "Box",
    "FrameMasks",
    "ImagePredictor",
    "ImageSession",
    "LabelStore",
    "MaskPrediction",
    "ModelSpec",
    "Points",
    "Prompt",
    "ScoredMask",
    "SegAnyError",
    "VideoPredictor",
    "VolumeSession",
    "__version__",
    "list_models",
    "load_model",
    "open_image",
]

# Where each public name lives. A name is listed once its module exists, not before.
_HOMES = {
    "AutomaticSegmenter": "predict.automatic",
    "Box": "core.types",
    "FrameMasks": "core.types",
    "ImagePredictor": "predict.image",
    "ImageSession": "session.image",
    "LabelStore": "io.label_store",
    "MaskPrediction": "core.types",
    "ModelSpec": "models.registry",
    "Points": "core.types",
    "Prompt": "core.types",
    "ScoredMask": "core.types",
    "SegAnyError": "core.errors",
    "VideoPredictor": "predict.video",
    "VolumeSession": "session.volume",
    "list_models": "models.registry",
    "load_model": "predict.loading",
    "open_image": "io.images",
}


def __getattr__(name: str) -> object:
    """Import the home of a public name on first use, and keep the name."""
    if name not in _HOMES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(set(globals()) | set(__all__))
