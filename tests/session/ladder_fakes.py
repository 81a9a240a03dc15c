"""A predictor that answers every prompt with six nested masks and names them, for tests of levels and classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from session_fakes import FakeFeatures, FakePredictor

from napari_segany.core.errors import CapabilityError
from napari_segany.core.granularity import levels_of
from napari_segany.core.types import MaskPrediction, ModelCard, Points, Prompt

RADII = (1, 2, 3, 5, 8, 12)
BEST_FIRST = (3, 1, 5, 0, 2, 4)  # levels 4, 2, 6, 1, 3, 5
OWN = ("granule", "nucleolus", "vesicle", "nucleus", "cell", "colony")


def six_masks(shape: tuple[int, int], prompt: Prompt, *, radii: Sequence[int] = RADII) -> np.ndarray:
    """Six disks around the mean of the positive clicks, fine to coarse; negative clicks cut a pixel out of each."""
    rows, cols = np.indices(shape)
    points = prompt.points
    if points is None:
        box = prompt.box
        points = Points(np.array([[(box.row0 + box.row1) / 2, (box.col0 + box.col1) / 2]]), np.array([True]))
    row, col = points.coords[points.positive].mean(axis=0)
    masks = np.stack([np.hypot(rows - row, cols - col) <= radius for radius in radii])
    for row, col in points.coords[~points.positive]:
        masks[:, round(row), round(col)] = False
    return masks


class LadderPredictor(FakePredictor):
    """As Semantic-SAM: six masks for every prompt, also for a correction if asked for; named by the classes there are.

    The finest mask is of the first class, and so on in turn; classes whose name begins with "no" fit nothing.
    """

    def __init__(
        self,
        name: str = "six",
        *,
        has_words: bool = True,
        classes: tuple[str, ...] = OWN,
        radii: Sequence[int] = RADII,
        **how,
    ) -> None:
        super().__init__(name, **how)
        self.card = ModelCard(name, "6" * 64, has_words=has_words, has_ladder=True)
        self.classes, self.radii = classes, radii
        self.named: list[tuple[str, ...]] = []

    def naming(self, classes: Sequence[str]) -> LadderPredictor:
        if not self.card.has_words:
            raise CapabilityError(f"{self.card.name} knows no words")
        if "refused" in classes:
            raise CapabilityError("no word is 'refused'")
        self.named.append(tuple(classes))
        other = LadderPredictor(self.card.name, classes=tuple(classes), radii=self.radii)
        other.asked, other.embedded = self.asked, self.embedded
        return other

    def predict(
        self, features: FakeFeatures, prompt: Prompt, *, multimask: bool = True, fine: bool | None = None
    ) -> MaskPrediction:
        assert features.model == self.card.name
        self.before_predict()
        self.asked.append(prompt)
        order = np.array(BEST_FIRST if multimask else BEST_FIRST[:1])
        every = six_masks(features.image_shape, prompt, radii=self.radii)
        masks = every[order]
        logits = np.where(masks[:, ::2, ::2], 4.0, -4.0).astype(np.float32)
        scores = np.linspace(0.9, 0.4, 6).astype(np.float32)[: len(order)]
        names = [self.classes[i % len(self.classes)] for i in order] if self.classes else []
        shown = tuple("" if name.startswith("no") else name for name in names)
        return MaskPrediction(masks, scores, logits, levels_of(masks), shown if self.card.has_words else ())
