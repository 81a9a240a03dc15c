"""Recipes: found by name, shortened in proportion, of models that exist."""

from __future__ import annotations

import pytest

from napari_segany.core.errors import UnknownModelError
from napari_segany.models.sam2 import SAM2
from napari_segany.models.semantic_sam import SEMANTIC
from napari_segany.predict.window_follower import APPEARING, SIDE
from napari_segany.train.answer_plan import AnswerPlan
from napari_segany.train.clip_plan import ClipPlan
from napari_segany.train.crops import CropPlan
from napari_segany.train.recipes import RECIPES, recipe_of
from napari_segany.train.simulate import CELL


def test_a_recipe_is_found_by_its_model() -> None:
    assert recipe_of("sam2-nano").name == "sam2-nano"
    with pytest.raises(UnknownModelError, match=r"'sam9'.*sam2-nano"):
        recipe_of("sam9")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_followed(name: str) -> None:
    recipe = recipe_of(name)
    config = (SAM2 | SEMANTIC)[recipe.row]
    assert recipe.steps == sum(stage.steps for stage in recipe.stages) > recipe.warmup
    for stage in recipe.stages:
        if isinstance(stage.plan, CropPlan):
            sides = [stage.plan.side]
            assert stage.plan.frames == (config.image_size, config.largest_size)  # as prediction chooses them
        elif isinstance(stage.plan, AnswerPlan):
            sides = list(stage.plan.size)
            assert stage.learns == (
                {"masks": "judge", "ways": "choice", "sides": "size_head"}[stage.plan.about],
            )  # and nothing else
        else:
            sides = [stage.plan.usual.side, stage.plan.large.side]
            assert sides[0] == SIDE  # of the windows that objects are followed in
            low, high = stage.plan.usual.sizes
            assert low < APPEARING < high
        for side in sides:
            assert (
                side % (4 * config.stride if recipe.nests else 2 * config.stride) == 0
            )  # what is halved beyond it
            assert side <= config.image_size
        assert config.stride / 4 == CELL  # prompts are simulated at the logits' own resolution
        assert 0 <= stage.last_rate <= stage.rate
        assert 0 <= stage.scene_share <= 1
    assert recipe.stages[-1].last_rate == 0


def test_a_recipe_on_a_base_fits_it() -> None:
    for recipe in RECIPES.values():
        if recipe.base is not None:
            ours, base = SAM2[recipe.row], SAM2[recipe.base]
            assert ours.has_fine == recipe.is_fine
            assert ours.memory is not None or not recipe.follows
            assert ours.trunk == base.trunk
            assert recipe.learns
            assert recipe.follows or all(
                stage.dense_weight == 0 or isinstance(stage.plan, AnswerPlan)  # which draws no maps
                for stage in recipe.stages
            )  # it trains the trunk


@pytest.mark.parametrize("steps", [1, 2, 48, 480, 9600])
def test_a_shortened_recipe_keeps_its_shares(steps: int) -> None:
    recipe = recipe_of("sam2-nano")
    short = recipe.shortened(steps)
    assert abs(short.steps - steps) <= len(recipe.stages)
    assert all(stage.steps >= 1 for stage in short.stages)
    for ours, whole in zip(short.stages, recipe.stages, strict=True):
        assert ours.steps == pytest.approx(whole.steps * steps / recipe.steps, abs=1)
        assert ours.plan == whole.plan
    assert short.name == recipe.name


def test_following_learns_from_spoilt_masks_at_the_end() -> None:
    plans = [stage.plan for stage in recipe_of("sam2-nano-memory").stages]
    shares = [plan.spoilt_share for plan in plans if isinstance(plan, ClipPlan)]
    assert len(shares) == len(plans)
    assert shares == [0.0] * (len(shares) - 1) + [0.15]
