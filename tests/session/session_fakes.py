"""A predictor that answers with disks, and a hand-pumped main thread: all that session tests need."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from napari_segany.core.errors import PromptError
from napari_segany.core.intensity import Window
from napari_segany.core.types import AnyArray, MaskPrediction, ModelCard, Prompt


@dataclass(frozen=True)
class FakeFeatures:
    image_shape: tuple[int, int]
    window: Window
    nbytes: int = 1000
    model: str = "fake"


class FakePredictor:
    """Disks of radius 2, 4 and 8 around the first positive click; boxes and drawn masks as they are.

    With fine boundaries there is one mask, as of HQ-SAM, and pixels at the image's edge are not in it.
    """

    card = ModelCard("fake", "0" * 64)

    def __init__(
        self,
        name: str = "fake",
        *,
        before_embed: Callable[[], object] = lambda: None,
        before_predict: Callable[[], object] = lambda: None,
        has_fine: bool = False,
        finds_instances: bool = False,
    ) -> None:
        self.card = ModelCard(name, "0" * 64, has_fine=has_fine, finds_instances=finds_instances)
        self.embedded: list[tuple[int, ...]] = []
        self.asked: list[Prompt] = []
        self.fine: list[bool | None] = []
        self.before_embed, self.before_predict = before_embed, before_predict

    def embed(self, image: AnyArray, *, window: Window | None = None) -> FakeFeatures:
        self.before_embed()
        self.embedded.append(image.shape)
        return FakeFeatures(image.shape[:2], window or Window(0, 1), model=self.card.name)

    def predict(
        self, features: FakeFeatures, prompt: Prompt, *, multimask: bool = True, fine: bool | None = None
    ) -> MaskPrediction:
        assert features.model == self.card.name, f"{self.card.name} was given features of {features.model}"
        if fine and not self.card.has_fine:
            raise PromptError(f"{self.card.name} draws no fine boundaries")
        self.before_predict()
        self.asked.append(prompt)
        self.fine.append(fine)
        masks = answer_masks(features.image_shape, prompt)
        is_fine = self.card.has_fine and fine is not False
        masks[:, :1] &= not is_fine
        order = np.array([1, 2, 0]) if multimask and not is_fine else np.array([1])
        logits = np.where(masks[order][:, ::2, ::2], 4.0, -4.0).astype(np.float32)
        scores = np.linspace(0.9, 0.5, len(order)).astype(np.float32)
        return MaskPrediction(masks[order], scores, logits, np.array([2, 4, 6])[order])

    def predict_many(
        self,
        features: FakeFeatures,
        prompts: Sequence[Prompt],
        *,
        multimask: bool = True,
        fine: bool | None = None,
    ) -> list[MaskPrediction]:
        return [self.predict(features, prompt, multimask=multimask, fine=fine) for prompt in prompts]

    def find_instances(self, features: FakeFeatures) -> np.ndarray:
        """Squares of 4 pixels, in every 8 pixels, row by row."""
        assert features.model == self.card.name and self.card.finds_instances
        rows, cols = np.indices(features.image_shape)
        counted = 1 + (rows // 8) * -(-features.image_shape[1] // 8) + cols // 8
        return np.where((rows % 8 < 4) & (cols % 8 < 4), counted, 0).astype(np.uint32)


def answer_masks(shape: tuple[int, int], prompt: Prompt) -> np.ndarray:
    """Three nested masks; negative clicks cut a disk of radius 1 out of each."""
    rows, cols = np.indices(shape)
    masks = np.zeros((3, *shape), dtype=bool)
    if prompt.mask is not None and prompt.mask.dtype == bool:
        masks[:] = prompt.mask
    if prompt.box is not None:
        box = prompt.box
        masks[:] |= (rows >= box.row0) & (rows < box.row1) & (cols >= box.col0) & (cols < box.col1)
    if prompt.points is not None:
        for (row, col), positive in zip(prompt.points.coords, prompt.points.positive, strict=True):
            for mask, radius in zip(masks, (2, 4, 8) if positive else (1, 1, 1), strict=True):
                mask[np.hypot(rows - row, cols - col) <= radius] = positive
    return masks


class Pump:
    """Stands in for a main thread: `post` queues, `until` runs what was queued."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def post(self, call: Callable[[], None]) -> None:
        self._queue.put(call)

    def until(self, condition: Callable[[], bool], *, timeout: float = 5.0) -> None:
        """Run posted calls until the condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            left = end - time.monotonic()
            assert left > 0, "the condition did not come true in time"
            try:
                self._queue.get(timeout=min(left, 0.02))()
            except queue.Empty:
                continue

    def drain(self, *, seconds: float = 0.05) -> None:
        """Run everything that is posted within some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self._queue.get(timeout=left)()
            except queue.Empty:
                return
