"""Nested crops: what is clicked on, what lies under it, and that a model learns from it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from annotated_images import disc_image

from napari_segany.models.semantic_sam import SEMANTIC, SemanticSam, boxes_of, build_semantic
from napari_segany.train.dataset import Annotated, from_scene
from napari_segany.train.hearts import heart_loss, hearts_of, seeded
from napari_segany.train.nested import NestedBatch, NestedPlan, NestedStream, cut_nested, rarity_of
from napari_segany.train.semantic import nested_loss
from napari_segany.train.simulate import CELL
from napari_segany.train.votes import LEVELS, vote_loss

VOCABULARY = SEMANTIC["semantic-nano"].vocabulary
PLAN = NestedPlan(side=128, objects=4, seen=12)


def crop(item: Annotated, seed: int, plan: NestedPlan = PLAN) -> NestedBatch | None:
    fields = cut_nested(item, plan, np.random.default_rng(seed), vocabulary=VOCABULARY)
    return None if fields is None else NestedBatch(*(field[None] for field in fields))


def crops(count: int) -> list[NestedBatch]:
    items = [
        from_scene(seed, size=(128, 128), kind=kind) for seed in (1, 2) for kind in ("composite", "phase")
    ]
    made = (crop(items[seed % len(items)], seed) for seed in range(100))
    return list(islice((each for each in made if each is not None), count))


def joined(batches: list[NestedBatch]) -> NestedBatch:
    names = NestedBatch.__dataclass_fields__
    return NestedBatch(*(torch.cat([getattr(batch, name) for batch in batches]) for name in names))


def small_model() -> SemanticSam:
    config = SEMANTIC["semantic-nano"]
    small = {"width": 32, "layers": 2, "mlp_width": 32, "mask_width": 16}
    torch.manual_seed(0)
    return build_semantic(
        replace(
            config,
            trunk=replace(config.trunk, widths=(8, 8, 16, 32), depth=1, heads=2),
            pixel_decoder=replace(config.pixel_decoder, **small, groups=4),
            query_decoder=replace(config.query_decoder, **small, projection=16),
        )
    )


def test_a_click_lies_in_all_its_objects_and_in_no_other() -> None:
    for batch in crops(12):
        masks = batch.masks[0].numpy() > 127
        seen = int(masks.any((1, 2)).sum())
        assert batch.pixels.shape == (1, 3, PLAN.side, PLAN.side)
        for k in range(PLAN.objects):
            held = set(np.flatnonzero(batch.inside[0, k]))
            assert held
            assert held <= set(range(seen))
            x, y, width, height = batch.places[0, k].tolist()
            if batch.is_box[0, k]:
                assert len(held) == 1
                assert min(width, height) > 0
            else:
                assert held == set(np.flatnonzero(masks[:, int(y) // CELL, int(x) // CELL]))


def test_objects_have_a_level_and_one_class_of_their_kind() -> None:
    parts = 0
    for batch in crops(12):
        seen = int((batch.masks[0] > 127).flatten(1).any(1).sum())
        assert (batch.levels[0, :seen] >= 1).all()
        assert ((batch.classes[0, :seen] >= 0).sum(-1) == 1).all()
        assert (batch.classes[0, seen:] == -1).all()
        parts += int((batch.classes[0, :, 1] >= 0).sum())
    assert parts > 0


def test_all_objects_that_a_click_lies_in_are_kept_though_many_others_are_there() -> None:
    item = from_scene(4, size=(192, 192), kind="composite")
    few = replace(PLAN, side=256, objects=3, seen=6, zoom=(0.4, 0.6))
    nested = crowded = 0
    for seed in range(12):
        some, everything = (crop(item, seed, plan) for plan in (few, replace(few, seen=len(item.objects))))
        assert some is not None
        assert everything is not None
        crowded += int((everything.levels > 0).sum() > 2 * few.seen)
        held = some.levels[0, some.inside[0, 0]].sort().values  # of the first prompt, which is always kept
        assert held.tolist() == everything.levels[0, everything.inside[0, 0]].sort().values.tolist()
        nested += len(held) > 1
    assert nested > 4
    assert crowded > 4


def test_rare_classes_are_shown_more_often_than_they_are_there() -> None:
    plenty, rare = disc_image("plenty", size=(50, 50)), from_scene(4, size=(128, 128), kind="composite")
    stream = NestedStream([], PLAN, vocabulary=VOCABULARY, seed=0, scene_share=1.0, kinds=("composite",))
    shares = stream.shares([plenty] * 24 + [rare])
    assert shares.sum() == pytest.approx(1.0)
    assert shares[-1] > 3 * shares[0]
    assert stream.shares([replace(plenty, objects=())]).tolist() == [1.0]


def test_every_class_of_the_scenes_is_in_the_vocabulary() -> None:
    kinds = ("composite", "phase", "em", "histology", "brightfield", "spots", "cilia", "neurites", "vessels")
    for kind in kinds:
        for thing in from_scene(3, size=(192, 192), kind=kind).objects:
            assert thing.kind in (VOCABULARY.parts if thing.is_part else VOCABULARY.objects)


def test_labels_of_a_folder_are_nuclei_of_no_known_level() -> None:
    batch = crop(disc_image("three", size=(50, 50)), 0)
    assert batch is not None
    assert not batch.is_complete.item()
    assert not batch.levels.any()
    assert batch.classes[0, 0].tolist() == [VOCABULARY.objects.index("nucleus"), -1]


def test_hearts_lie_in_their_objects() -> None:
    for batch in crops(6):
        masks = batch.masks.float() / 255
        size = (PLAN.side // 8, PLAN.side // 8)
        hearts = hearts_of(masks, size)[0]
        for mask, heart in zip(masks[0] > 0.5, hearts.tolist(), strict=True):
            assert (heart < 0) == (not mask.any())
            if heart >= 0:
                row, col = divmod(heart, size[1])
                cell = 8 // CELL
                assert mask[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell].any()


def test_maps_that_show_the_hearts_lose_little_and_seed_every_object() -> None:
    batch = crops(1)[0]
    masks = batch.masks.float() / 255
    boxes, size = boxes_of(masks > 0.5), (PLAN.side // 8, PLAN.side // 8)
    hearts = hearts_of(masks, size)
    maps = torch.zeros(1, 2, 3, *size)
    maps[:, :, 0] = -9.0
    wrong = heart_loss(maps, masks, boxes, batch)
    known = [g for g, heart in enumerate(hearts[0].tolist()) if heart >= 0]
    for g in known:
        kind = int(batch.classes[0, g, 1] >= 0)
        row, col = divmod(int(hearts[0, g]), size[1])
        maps[0, kind, 0, row, col] = 9.0
        maps[0, kind, 1:, row, col] = (boxes[0, g, 2:] * size[0]).clamp(min=0.3).log()
    right = heart_loss(maps, masks, boxes, batch)
    assert right < 0.1 * wrong
    seeds = seeded(maps, masks, boxes, batch, extra=5)
    assert set(seeds.truth[0].tolist()) == {-1, *known}
    assert seeds.boxes.shape[1] == masks.shape[1] + 5
    for place, g in enumerate(seeds.truth[0].tolist()):
        if g >= 0:
            assert seeds.is_part[0, place] == (batch.classes[0, g, 1] >= 0)


@pytest.mark.parametrize("is_many", [True, False])
def test_a_few_crops_are_learnt(is_many: bool) -> None:
    model = small_model()
    batch = joined(crops(2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(24):
        loss = nested_loss(model, batch, rng=np.random.default_rng(0), is_many=is_many)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    if is_many:
        assert np.mean(losses[-8:]) < 0.75 * np.mean(losses[:8])
    assert min(losses) < 0.7 * losses[0]  # one to one, which of the masks learns changes on the way


@pytest.mark.parametrize("is_many", [True, False])
def test_everything_learns(is_many: bool) -> None:
    model = small_model()
    with torch.no_grad():  # what starts at zero would hide what is behind it
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    nested_loss(model, joined(crops(2)), rng=np.random.default_rng(0), is_many=is_many).backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_pixels_that_vote_rightly_lose_nothing() -> None:
    batch = joined(crops(3))
    masks = batch.masks.float() / 255
    boxes, size = boxes_of(masks > 0.5), masks.shape[2:]
    places = torch.full((len(masks), 3, 2, *size), 0.5)
    wrong = vote_loss(places, masks, batch)
    for b in range(len(masks)):
        for level_map, levels in enumerate(LEVELS):
            order = masks[b].sum((-2, -1)).argsort(descending=True)  # the smallest has the last word
            for g in order.tolist():
                if int(batch.levels[b, g]) in levels:
                    inside = masks[b, g] > 0.5
                    places[b, level_map, :, inside] = boxes[b, g, :2, None]
    right = vote_loss(places, masks, batch)
    assert right < 0.02 * wrong


def test_a_stream_of_nested_crops_collates() -> None:
    stream = NestedStream(
        [disc_image("three", size=(64, 64))],
        PLAN,
        vocabulary=VOCABULARY,
        seed=1,
        scene_share=0.0,
        kinds=("composite",),
    )
    fields = next(iter(torch.utils.data.DataLoader(stream, batch_size=3)))
    batch = NestedBatch(*fields)
    assert batch.pixels.shape == (3, 3, PLAN.side, PLAN.side)
    assert batch.masks.dtype == torch.uint8
    assert batch.inside.any(-1).all()


def test_classes_that_are_named_again_come_more_often() -> None:
    items = [from_scene(seed, size=(96, 96), kind="spots") for seed in range(3)]
    once, again = rarity_of(items), rarity_of(items, again=("spot", "spot", "gland"))
    assert again["spot"] == pytest.approx(3 * once["spot"])
    assert {name: share for name, share in again.items() if name != "spot"} == {
        name: share for name, share in once.items() if name != "spot"
    }
