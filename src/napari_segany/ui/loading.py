"""Models loaded for a widget, with downloads that show how far they are and can be called off."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from napari_segany.core.types import ImagePredictorLike, VideoPredictorLike
from napari_segany.models.download import Progress
from napari_segany.session.worker import CancelledError, Post

from .preload import preload_torch
from .settings import Settings

PredictorType = TypeVar("PredictorType")
Loader: TypeAlias = Callable[[str, Settings, Progress], PredictorType]
"""Turns a model's name, or a weights file's path, into a predictor; tells of downloads on the way."""


def load_predictor(model: str, settings: Settings, progress: Progress) -> ImagePredictorLike:
    """Load a model; takes seconds, or minutes with a download, so it is called on a worker's thread."""
    preload_torch()
    from napari_segany.predict.loading import load_model

    from .finding import FindingPredictor

    loaded = load_model(model, device=settings.device, precision=settings.precision, progress=progress)
    predictor: ImagePredictorLike = FindingPredictor(loaded)
    return predictor


def load_video_predictor(model: str, settings: Settings, progress: Progress) -> VideoPredictorLike:
    """Load a model with a memory, to follow objects; called on a worker's thread, as it takes seconds or minutes."""
    preload_torch()
    from napari_segany.predict.loading import load_model
    from napari_segany.predict.video import VideoPredictor

    loaded = load_model(model, device=settings.device, precision=settings.precision, progress=progress)
    predictor: VideoPredictorLike = VideoPredictor(loaded)
    return predictor


class Download:
    """What the download of one model tells, brought to the main thread."""

    def __init__(self, *, post: Post, shown: Callable[[int, int, str], None]) -> None:
        self._post, self._shown = post, shown
        self._is_called_off = threading.Event()

    def __call__(self, done: int, total: int, message: str) -> None:
        """Show bytes done and in all; ends the download if it was called off."""
        if self._is_called_off.is_set():
            raise CancelledError("the download was called off")
        if total:
            self._post(lambda: self._shown(done, total, message))

    def call_off(self) -> None:
        """End the download at its next report."""
        self._is_called_off.set()


class Loading(Generic[PredictorType]):
    """The ways in which one widget loads models.

    Parameters
    ----------
    load
        Loads one, on the worker's thread.
    post
        Brings what a download tells to the main thread.
    shown
        Takes bytes done, bytes in all, and what is downloaded.
    """

    def __init__(
        self, load: Loader[PredictorType], *, post: Post, shown: Callable[[int, int, str], None]
    ) -> None:
        self._load, self._post, self._shown = load, post, shown
        self._present: Download | None = None

    def of(self, model: str, *, settings: Settings) -> Callable[[], PredictorType]:
        """Return what loads a model when it is called; it can be called again after it failed."""

        def load() -> PredictorType:
            self._present = download = Download(post=self._post, shown=self._shown)
            return self._load(model, settings, download)

        return load

    def call_off(self) -> None:
        """End the download that runs, if one does."""
        if self._present is not None:
            self._present.call_off()
