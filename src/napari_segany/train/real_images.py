"""Images of kinds that training never saw: what scikit-image's wheel carries, with clicks on things in them.

They have no labels. They are drawn, to be looked at: whether what was learnt from scenes and nuclei goes beyond them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from napari_segany.core.types import AnyArray, ImagePredictorLike

from .cases import Case, click_at, draw_answer, shown, square_at


@dataclass(frozen=True, slots=True)
class RealImage:
    """An image of `skimage.data` by its name there, what it shows, and (row, col) to click on.

    `view` is the side in pixels of what is drawn around a click.
    """

    name: str
    shows: str
    view: int
    clicks: tuple[tuple[int, int], ...]

    def pixels(self) -> AnyArray:
        """Return the image."""
        from skimage import data

        image: AnyArray = np.asarray(getattr(data, self.name)())
        return image


REAL_IMAGES = (
    RealImage("immunohistochemistry", "stained tissue", 128, ((393, 69), (418, 214), (290, 330), (60, 100))),
    RealImage("cell", "an unstained cell", 320, ((374, 427),)),
    RealImage("retina", "the back of an eye", 480, ((655, 245), (693, 693))),
    RealImage("microaneurysms", "a piece of it", 102, ((22, 16), (49, 33))),
    RealImage("coins", "round things, no cells", 128, ((45, 160), (127, 104), (265, 172))),
    RealImage("hubble_deep_field", "spots, no cells", 96, ((471, 725), (397, 122))),
    RealImage("brick", "texture", 160, ((250, 250),)),
    RealImage("gravel", "things that touch", 128, ((282, 230), (100, 380))),
    RealImage("grass", "texture", 128, ((256, 256),)),
)


def draw_real(predictor: ImagePredictorLike) -> Iterator[tuple[RealImage, Case]]:
    """Yield each image with a picture for each click: what the answer with the best score outlines."""
    for real in REAL_IMAGES:
        image = real.pixels()
        features = predictor.embed(image)
        rgb = shown(image)
        for click in real.clicks:
            answer = predictor.predict(features, click_at(click))
            picture = draw_answer(rgb, answer.best, click, window=square_at(click, real.view, rgb.shape))
            yield real, Case(picture, f"{real.name}: {answer.scores[0]:.2f} says the model")
