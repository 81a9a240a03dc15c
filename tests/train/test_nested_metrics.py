"""Measuring nested masks: who knows the truth gets everything, who shows nothing gets nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from napari_segany.core.errors import DataError
from napari_segany.core.intensity import Window
from napari_segany.core.types import AnyArray, FeaturesLike, MaskPrediction, ModelCard, Prompt
from napari_segany.train.dataset import Annotated
from napari_segany.train.metrics import whole_mask
from napari_segany.train.nested_metrics import NESTED_KINDS, evaluate_nested, nested_scenes


@dataclass
class Seen:
    image: AnyArray
    window: Window = field(default_factory=lambda: Window(0.0, 1.0))
    nbytes: int = 0

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]


class Oracle:
    """Answers each click with everything that it lies in, finest first or, where asked for, the other way round."""

    def __init__(self, items: Sequence[Annotated], *, names: bool = True, turned: bool = False) -> None:
        self.items, self.names, self.turned = items, names, turned
        self.card = ModelCard("oracle", "0" * 64, has_words=True)

    def embed(self, image: AnyArray, *, window: Window | None = None) -> FeaturesLike:
        return Seen(image)

    def predict_many(
        self, features: FeaturesLike, prompts: Sequence[Prompt], **_: object
    ) -> list[MaskPrediction]:
        assert isinstance(features, Seen)
        item = next(each for each in self.items if each.image is features.image)
        return [self._answer(item, prompt) for prompt in prompts]

    def _answer(self, item: Annotated, prompt: Prompt) -> MaskPrediction:
        assert prompt.points is not None
        place = tuple(int(side) for side in prompt.points.coords[0])
        held = [thing for thing in item.objects if whole_mask(thing, item.labels.shape)[place]]
        held.sort(key=lambda thing: int(thing.mask.sum()))
        masks = np.stack([whole_mask(thing, item.labels.shape) for thing in held])
        levels = np.arange(1, len(held) + 1)
        return MaskPrediction(
            masks,
            np.ones(len(held), dtype=np.float32),
            np.zeros((len(held), 4, 4), dtype=np.float32),
            levels[::-1] if self.turned else levels,
            tuple(thing.kind if self.names else "rock" for thing in held),
        )


def test_who_knows_everything_gets_everything() -> None:
    items = list(nested_scenes(len(NESTED_KINDS), size=(128, 128)))
    result = evaluate_nested(Oracle(items), items).as_dict()  # type: ignore[arg-type]  # all that is asked for
    assert {key: result[key] for key in ("nested", "ordered", "named")} == {
        "nested": 1,
        "ordered": 1,
        "named": 1,
    }
    assert result["scenes"] == len(NESTED_KINDS)
    assert set(result["by_kind"]) <= set(NESTED_KINDS)  # type: ignore[call-overload]  # a table
    assert int(str(result["masks"])) > int(str(result["clicks"])) > 0


def test_wrong_names_and_a_wrong_order_are_noticed() -> None:
    items = list(nested_scenes(4, size=(128, 128)))
    result = evaluate_nested(Oracle(items, names=False, turned=True), items).as_dict()  # type: ignore[arg-type]  # as above
    assert result["nested"] == 1
    assert result["named"] == 0
    assert float(str(result["ordered"])) < 1


def test_scenes_repeat_by_their_seed_and_differ_otherwise() -> None:
    one, two, three = (next(nested_scenes(1, seed=seed, size=(96, 96))) for seed in (5, 5, 6))
    assert np.array_equal(one.image, two.image)
    assert not np.array_equal(one.image, three.image)


def test_nothing_to_click_on_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the 0 images"):
        evaluate_nested(Oracle([]), [])  # type: ignore[arg-type]  # as above
