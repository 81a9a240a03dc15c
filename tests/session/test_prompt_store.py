import numpy as np
import pytest

from napari_segany.core.errors import PromptError
from napari_segany.core.types import Box, ModelCard, Points
from napari_segany.session.prompts import ObjectPrompts, PromptStore, Seed

CARD = ModelCard("fake", "0" * 64)

PLANE = (3,)


def clicks(*coords: tuple[float, float]) -> Points:
    return Points(np.array(coords, dtype=np.float32).reshape(-1, 2), np.ones(len(coords), dtype=bool))


def seed_of(prompts: ObjectPrompts) -> Seed:
    return Seed(np.zeros((4, 4), dtype=np.float32), prompts, 0, CARD)


def test_edits_keep_what_was_before_and_name_the_planes_that_changed() -> None:
    store, told = PromptStore(), []
    store.changed.connect(told.append)
    first = store.add_click(PLANE, (1, 2), positive=True)
    second = store.set_box(PLANE, Box(0, 0, 4, 4))
    assert first.before == {} and len(store[PLANE].points) == 1 and second.before == first.after
    store.restore(first.before)
    assert store[PLANE].is_empty and told == [PLANE, PLANE, PLANE]


def test_a_prompt_prefers_the_answer_it_refines_over_the_drawn_mask() -> None:
    drawn = ObjectPrompts(mask=np.eye(4, dtype=bool))
    assert drawn.prompt(CARD).mask is drawn.mask
    seed = seed_of(drawn)
    refined = ObjectPrompts(points=clicks((1, 1)), mask=drawn.mask, seed=seed)
    assert np.array_equal(refined.prompt(CARD).mask, seed.logits)
    assert refined.rounds(CARD) == [drawn, refined]


def test_only_one_lonely_click_is_ambiguous() -> None:
    one = ObjectPrompts(points=clicks((1, 1)))
    assert one.is_ambiguous
    assert not ObjectPrompts(points=clicks((1, 1), (2, 2))).is_ambiguous
    assert not ObjectPrompts(points=one.points, box=Box(0, 0, 3, 3)).is_ambiguous
    assert not ObjectPrompts(points=one.points, seed=seed_of(one)).is_ambiguous


@pytest.mark.parametrize(
    ("moved", "kept"),
    [
        (clicks((1, 1), (2, 2), (8, 8)), 2),  # the third was dragged: what the first two gave stays
        (clicks((1, 1), (7, 7), (3, 3)), 1),  # the second was: what the first gave stays
        (clicks((5, 5), (2, 2), (3, 3)), None),
        (clicks((1, 1), (2, 2)), 1),  # the third was deleted
        (clicks(), None),
    ],
)
def test_moving_a_click_refines_only_answers_it_took_no_part_in(moved: Points, kept: int | None) -> None:
    store = PromptStore()
    store.add_click(PLANE, (1, 1), positive=True)
    store.add_click(PLANE, (2, 2), positive=True, seed=seed_of(store[PLANE]))
    store.add_click(PLANE, (3, 3), positive=True, seed=seed_of(store[PLANE]))
    store.set_points(PLANE, moved)
    seed = store[PLANE].seed
    assert (len(seed.origin.points) if seed is not None else None) == kept


def test_empty_prompts_cannot_be_asked() -> None:
    with pytest.raises(PromptError, match="click on the object"):
        ObjectPrompts().prompt(CARD)
