"""Following in whole frames, quickly: batches, number formats, memories put together far from the object."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from small_models import seeded_network
from tests.contracts.shrink import shrunken

from napari_segany.core.intensity import Window
from napari_segany.core.types import BoolMask, ModelCard
from napari_segany.models.sam2 import SAM2, Sam2
from napari_segany.predict import frame_follower
from napari_segany.predict.followed import Memory
from napari_segany.predict.follower import Ask, Found
from napari_segany.predict.frame_follower import FrameFollower, SpatialMemory
from napari_segany.predict.loading import Model, _prepare
from napari_segany.predict.precision import place

SIDE = 640  # 40 x 40 cells, so that there are blocks far from an object
FRAMES = 3
ROW = "sam2.1_hiera_tiny"


def large_network() -> Sam2:
    """Return the shrunken SAM 2.1 on a larger frame; every object is there, and its memory matters."""
    network = Sam2(replace(shrunken(SAM2[ROW]), image_size=SIDE)).eval()
    network.load_state_dict(seeded_network(ROW).state_dict())
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].weight.zero_()
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(2.0)
        network.memory_attention.layers[0].cross_attn_image.v_proj.weight.mul_(20.0)
    return network


def model_of(network: Sam2, *, precision: str = "float32") -> Model:
    placement = place("cpu", precision)
    return Model(ModelCard(network.config.name, "0" * 64), _prepare(network, placement), placement)


def follower_of(*, precision: str = "float32", condenses: bool | None = None) -> FrameFollower:
    model = model_of(large_network(), precision=precision)
    return FrameFollower(model, window=Window(0.0, 255.0), condenses=condenses)


def frames() -> np.ndarray:
    """Return (T, 80, 80) frames without detail; a cell of the features covers 2 x 2 of their pixels."""
    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(FRAMES, 80, 80)), (0, 5, 5))
    return (128 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def squares() -> list[BoolMask]:
    """Return (80, 80) masks of three objects."""
    masks = np.zeros((3, 80, 80), dtype=bool)
    for mask, first in zip(masks, (8, 30, 55), strict=True):
        mask[first : first + 14, first : first + 10] = True
    return list(masks)


@torch.inference_mode()
def asked(follower: FrameFollower, masks: list[BoolMask]) -> tuple[object, list[Ask]]:
    """Return a look at the last frame, and what objects that were at their masks before are reminded of there."""
    looks = [follower.look(frame) for frame in frames()]
    asks = []
    for mask in masks:
        first, second = (follower.adopt(look, mask) for look in looks[:2])
        asks.append(Ask(((0, first), (1, second)), ((2, first), (1, second)), mask, None))
    return looks[2], asks


@torch.inference_mode()
def followed(follower: FrameFollower, masks: list[BoolMask]) -> list[Found]:
    return follower.follow(*asked(follower, masks))


def memory_of(found: Found) -> Memory:
    return cast(Memory, found.seen)


def assert_same(ours: Found, theirs: Found) -> None:
    assert ours.drawn.region == theirs.drawn.region
    np.testing.assert_allclose(ours.drawn.logits, theirs.drawn.logits, atol=1e-3)
    assert ours.drawn.score == pytest.approx(theirs.drawn.score, abs=1e-4)
    torch.testing.assert_close(memory_of(ours).pointer, memory_of(theirs).pointer, atol=1e-4, rtol=0)
    spatial = [cast(SpatialMemory, memory_of(one).spatial) for one in (ours, theirs)]
    torch.testing.assert_close(spatial[0].cells, spatial[1].cells, atol=0.05, rtol=0.01)  # kept in bfloat16


@pytest.mark.parametrize("condenses", [False, True])
def test_objects_at_once_come_out_as_each_alone(condenses: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_follower, "_BATCH", 2)  # and not all fit into one batch
    follower = follower_of(condenses=condenses)
    look, asks = asked(follower, squares())
    with torch.inference_mode():
        together = follower.follow(look, asks)
        for one, ask in zip(together, asks, strict=True):
            assert_same(one, follower.follow(look, [ask])[0])
    assert not torch.allclose(
        memory_of(together[0]).pointer, memory_of(together[2]).pointer, atol=3e-4, rtol=0
    )


def embedding_of(follower: FrameFollower, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Return the last frame's embedding in the light of what is remembered of the three objects."""
    seen = []
    answer = frame_follower.Tracking.answer

    def noted(self, features, *arguments, **options):  # type: ignore[no-untyped-def]
        seen.append(features.embedding)
        return answer(self, features, *arguments, **options)

    monkeypatch.setattr(frame_follower.Tracking, "answer", noted)
    followed(follower, squares())
    return seen[-1]


def test_putting_together_what_is_far_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embedding_of(follower_of(condenses=False), monkeypatch)
    condensed = embedding_of(follower_of(condenses=True), monkeypatch)
    between = float((whole[0] - whole[1]).norm())
    change = float((condensed[0] - whole[0]).norm())
    assert 0 < change < 0.5 * between
    assert between < 0.05 * float(whole[0].norm())


def test_bfloat16_changes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = embedding_of(follower_of(), monkeypatch)
    rough = embedding_of(follower_of(precision="bfloat16", condenses=False), monkeypatch)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).norm() / (exact - exact.mean(dim=(2, 3), keepdim=True)).norm()) < 0.2


@pytest.mark.parametrize(
    ("precision", "condenses", "expected"),
    [("float32", None, False), ("float32", True, True), ("bfloat16", None, True), ("bfloat16", False, False)],
)
def test_all_is_exact_in_float32_unless_told_otherwise(
    precision: str, condenses: bool | None, expected: bool
) -> None:
    follower = follower_of(precision=precision, condenses=condenses)
    _, asks = asked(follower, squares()[:1])
    near = cast(SpatialMemory, asks[0].memories[0][1].spatial).near
    assert (near is not None) == expected


def test_memories_that_are_tokens_stay_as_they_are() -> None:
    model = model_of(seeded_network("edgetam"))
    follower = FrameFollower(model, window=Window(0.0, 255.0), condenses=True)
    found = followed(follower, squares())
    assert all(cast(SpatialMemory, memory_of(one).spatial).near is None for one in found)


def test_products_of_the_memory_run_in_the_encoder_s_format() -> None:
    for precision in ("float32", "bfloat16"):
        network = cast(Sam2, model_of(large_network(), precision=precision).network)
        dtype = getattr(torch, precision)
        assert network.memory_attention.product_dtype == dtype
        assert network.memory_encoder.out_proj.weight.dtype == dtype
        assert network.memory_attention.norm.weight.dtype == torch.float32
        assert network.obj_ptr_proj.layers[0].weight.dtype == torch.float32
