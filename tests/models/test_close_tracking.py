"""Following in windows: what is remembered keeps its place in the image, and every part learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.contracts.shrink import shrunken

from napari_segany.core.errors import CapabilityError
from napari_segany.models.close_memory import Clicks, CloseMemoryConfig
from napari_segany.models.close_tracking import CloseKept, CloseTracking, Seen
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.prompt_labels import NEGATIVE
from napari_segany.models.sam2 import SAM2, Sam2
from napari_segany.models.tracking import ABSENT, TrackedFrame, Tracking
from napari_segany.models.windows import Places

SIDE = 64


def network() -> Sam2:
    torch.manual_seed(0)
    config = replace(
        shrunken(SAM2["sam2-nano"]), memory=CloseMemoryConfig(width=16, layers=2, mlp_width=32, frames=4)
    )
    model = Sam2(config).eval()
    with torch.no_grad():
        for parameter in model.memory.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
        model.memory.decoder.pred_obj_score_head.layers[-1].bias.fill_(2.0)  # objects seem to be there
    return model


@pytest.fixture(scope="module")
def tracking() -> CloseTracking:
    return CloseTracking(network())


def places(*corners: tuple[float, float], scale: float = 2.0) -> Places:
    return Places(torch.tensor(corners, dtype=torch.float32), torch.full((len(corners),), scale))


def seen(tracking: CloseTracking, where: Places, *, seed: int = 0) -> Seen:
    pixels = torch.randn(len(where), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return Seen(tracking.model.encode(pixels), where)


def drawn(tracking: CloseTracking, view: Seen) -> tuple[TrackedFrame, CloseKept]:
    logits = torch.full((len(view.places), 1, SIDE // 2, SIDE // 2), -10.0)
    logits[..., 8:20, 10:24] = 10.0
    answer = tracking.drawn(view, logits)
    return answer, tracking.remember(view, answer)


def step(tracking: CloseTracking, old: Places, new: Places) -> TrackedFrame:
    first = seen(tracking, old)
    answer, kept = drawn(tracking, first)
    view = seen(tracking, new, seed=1)
    told = tracking.recollection(new, [(0, kept), (1, kept)], [(1, kept.pointers)])
    return tracking.followed(view, told, earlier=tracking.earlier(answer, source=old, target=new))


@torch.no_grad()
def test_only_the_way_between_windows_counts(tracking: CloseTracking) -> None:
    here = step(tracking, places((10, 20)), places((14, 17)))
    there = step(tracking, places((110, 220)), places((114, 217)))
    elsewhere = step(tracking, places((10, 20)), places((20, 40)))
    torch.testing.assert_close(here.logits, there.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(here.pointers, there.pointers, rtol=1e-3, atol=1e-3)
    assert (here.logits - elsewhere.logits).abs().max() > 1e-2


@torch.no_grad()
def test_objects_of_a_batch_are_as_alone(tracking: CloseTracking) -> None:
    together = step(tracking, places((10, 20), (40, 5)), places((14, 17), (41, 9)))
    view = seen(tracking, places((10, 20), (40, 5)))
    _, kept = drawn(tracking, view)
    row = torch.tensor([1])
    first, second = seen(tracking, view.places), seen(tracking, places((14, 17), (41, 9)), seed=1)
    answer, own = drawn(tracking, first.rows(row))
    told = tracking.recollection(second.places.rows(row), [(0, own), (1, own)], [(1, own.pointers)])
    earlier = tracking.earlier(answer, source=own.places, target=second.places.rows(row))
    alone = tracking.followed(second.rows(row), told, earlier=earlier)
    torch.testing.assert_close(alone.logits[0], together.logits[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(kept.rows(row).tokens, own.tokens, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_absent_objects_are_remembered_as_such(tracking: CloseTracking) -> None:
    view = seen(tracking, places((0, 0)))
    nothing = tracking.drawn(view, torch.full((1, 1, SIDE // 2, SIDE // 2), -10.0))
    assert not nothing.is_present.any()
    assert (nothing.logits == ABSENT).all()
    assert torch.equal(nothing.pointers, tracking.memory.no_pointer)
    earlier = tracking.earlier(nothing, source=view.places, target=view.places)
    assert (earlier == 0).all()  # which says nothing, rather than "nowhere"


@pytest.mark.parametrize(
    ("score", "iou", "is_there"),
    [(0.5, 0.2, True), (-0.5, 0.8, True), (-0.5, 0.5, False), (-2.0, 0.9, False)],
)
@torch.no_grad()
def test_a_doubted_object_stays_while_its_mask_fits_unless_a_person_says_no(
    tracking: CloseTracking, score: float, iou: float, is_there: bool
) -> None:
    output = MaskOutput(
        torch.ones(1, 1, 16, 16),
        torch.tensor([[iou]]),
        torch.tensor([[score]]),
        torch.zeros(1, 1, tracking.model.config.width),
    )
    answer = tracking.judged(output)
    assert bool(answer.is_present) == is_there == bool((answer.logits > 0).any())
    assert torch.equal(answer.ious, output.ious)
    no = Clicks(torch.zeros(1, 1, 2), torch.tensor([[NEGATIVE]]))
    assert bool(tracking.judged(output, clicks=no).is_present) == (score > 0)


def test_the_image_model_is_not_touched() -> None:
    model = network()
    still = Sam2(replace(model.config, memory=None)).eval()
    still.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("memory.")})
    pixels = torch.randn(1, 3, SIDE, SIDE)
    xy, labels = torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])
    with torch.no_grad():
        assert torch.equal(model(pixels, xy, labels).logits, still(pixels, xy, labels).logits)


def test_every_part_of_the_memory_learns() -> None:
    tracking = CloseTracking(network())
    answer = step(tracking, places((10, 20)), places((14, 17)))
    kept = tracking.remember(seen(tracking, places((14, 17)), seed=1), answer)
    absent = tracking.drawn(seen(tracking, places((0, 0))), torch.full((1, 1, SIDE // 2, SIDE // 2), -10.0))
    empty = tracking.remember(seen(tracking, places((0, 0))), absent)
    parts = (answer.logits.sum(), answer.ious.sum(), answer.object_scores.sum(), answer.pointers.sum(),
             kept.tokens.sum(), empty.tokens.sum(), absent.pointers.sum())  # fmt: skip
    torch.stack(parts).sum().backward()
    unused = (
        "prompts.",
        "output_hypernetworks_mlps.1",
        "output_hypernetworks_mlps.2",
        "output_hypernetworks_mlps.3",
    )
    for name, parameter in tracking.memory.named_parameters():
        if not any(part in name for part in unused) or "mask_downscaling" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0 or name == "ages", name


def test_whole_frames_and_windows_are_not_mixed_up() -> None:
    model = network()
    with pytest.raises(CapabilityError, match="has no memory"):
        Tracking(model)
    torch.manual_seed(0)
    with pytest.raises(CapabilityError, match="in windows"):
        CloseTracking(Sam2(shrunken(SAM2["sam2.1_hiera_tiny"])))
