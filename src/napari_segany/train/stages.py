"""What a recipe is made of: stages of training, each with its plan. The recipes themselves are in `recipes`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .answer_plan import AnswerPlan
from .clip_plan import ClipPlan
from .crops import CropPlan
from .losses import ABSENT_WEIGHT, OBJECT_WEIGHT
from .nested import NestedPlan
from .scenes import KINDS


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of training with one crop plan; the learning rate goes from `rate` to `last_rate` along a cosine.

    `rounds` is the largest number of prompts on one object (the first, then corrective clicks), `late_share` the share
    of objects that get more than one, `dense_weight` the weight of the auxiliary foreground and border maps,
    `object_weight` that of object pixels in the focal loss of what prompts answer and of what is followed,
    `absent_weight` that of frames without the object in what is learnt of presence. Where there are `clip_kinds`,
    `clip_share` of the scenes are single frames of such movies and stacks. A share of `wide_share` of the
    batches is cut as `wide` says, as many crops as have the same number of pixels. Where `learns` says so, only
    parameters with one of these in their names learn, of those that the recipe leaves to learn. Of the weights
    that the stage began with, `kept` is mixed into those that it ends with (Wortsman et al. 2022, "Robust fine-tuning
    of zero-shot models"): both lie in one valley, whose middle is often lower.
    """

    steps: int
    plan: CropPlan | ClipPlan | AnswerPlan
    batch: int
    rate: float
    last_rate: float
    rounds: int = 4
    late_share: float = 0.5
    dense_weight: float = 1.0
    object_weight: float = OBJECT_WEIGHT
    absent_weight: float = ABSENT_WEIGHT
    scene_share: float = 0.6
    kinds: tuple[str, ...] = (*KINDS, "filaments", "em", "phase")  # the hard ones twice
    clip_kinds: tuple[str, ...] = ()
    clip_share: float = 0.25
    wide: CropPlan | None = None
    wide_share: float = 0.5
    learns: tuple[str, ...] = ()
    kept: float = 0.0

    @property
    def learns_images(self) -> bool:
        """Whether anything that images alone pass through learns."""
        return not self.learns or any("image_encoder" in part for part in self.learns)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is trained, from nothing to the file in the wheel.

    With a `base`, that model's weights are taken over and stay as they are; only parameters with one of `learns` in
    their names learn. `model` is the row that is built, where it is not called as the recipe. With `trunk_of`, training
    begins with that model's trunk, which learns at `trunk_share` of the rate.
    """

    name: str
    stages: tuple[Stage, ...]
    seed: int = 7
    warmup: int = 100
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    base: str | None = None
    learns: tuple[str, ...] = ()
    model: str = ""
    trunk_of: str | None = None
    trunk_share: float = 1.0

    @property
    def row(self) -> str:
        """Name of the model that is built."""
        return self.model or self.name

    @property
    def is_fine(self) -> bool:
        """Whether it is fine boundaries that are learnt."""
        return ".fine." in self.learns

    @property
    def follows(self) -> bool:
        """Whether it is following through clips that is learnt."""
        return isinstance(self.stages[-1].plan, ClipPlan)

    @property
    def nests(self) -> bool:
        """Whether it is objects within objects, and their names, that are learnt."""
        return isinstance(self.stages[-1].plan, NestedPlan)

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def shortened(self, steps: int) -> Recipe:
        """Return the same recipe with about `steps` steps in all, shared as before."""
        share = steps / self.steps
        return replace(
            self, stages=tuple(replace(s, steps=max(1, round(s.steps * share))) for s in self.stages)
        )
