"""How a judge is taught, what chooses ways, and what foretells sides; apart from the teaching, as recipes are read
without PyTorch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What a judge learns from: answers to one click on `objects` (at most) of each of `scenes` and of `images`.

    They are collected once, by the model as it then is and as a person would get them, then gone through again and
    again, those of images `image_share` of the time; `left_out` of the evidence is hidden each time. About `ways`, it
    is which of them suits an answer that is learnt, from answers to clicks, boxes and corrections; about `sides`, how
    large an object is that is clicked on, before there is any answer.
    """

    about: Literal["masks", "ways", "sides"] = "masks"
    scenes: int = 560
    images: int = 560
    objects: tuple[int, int] = (8, 12)
    size: tuple[int, int] = (256, 256)
    image_share: float = 0.45
    left_out: float = 0.2
