"""The steps of SAM 2's tracking: batches, absence, prompts that are masks, what memories depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_weights import randomised
from torch import Tensor

from napari_segany.core.errors import CapabilityError, SettingsError
from napari_segany.models.hiera import HieraConfig
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import DecoderConfig
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.sam2 import Sam2, Sam2Config
from napari_segany.models.time_code import time_code
from napari_segany.models.tracking import (
    ABSENT,
    FrameMemory,
    Recollection,
    TrackedFrame,
    Tracking,
)

CONFIG = Sam2Config(
    "small",
    HieraConfig(width=8, heads=1, stages=(1, 1, 2, 1), global_blocks=(3,), windows=(8, 4, 4, 2)),
    image_size=64,
    width=32,
    decoder=DecoderConfig(mlp_width=64, iou_width=32),
    memory=MemoryConfig(width=16, layers=2, mlp_width=64, frames=4, pointers=5),
)
NOTHING = torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.long)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_model(config: Sam2Config = CONFIG) -> Sam2:
    model = randomised(Sam2(config))
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def tracking() -> Tracking:
    return Tracking(small_model(), storage=None)


@pytest.fixture(scope="module")
def features(tracking: Tracking) -> ImageFeatures:
    return tracking.model.encode_frame(noise(1, 3, 64, 64))


def with_presence(tracking: Tracking, score: float) -> Tracking:
    """Return a tracking whose model finds every object there (or not)."""
    model = small_model()
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    head.weight.zero_()
    head.bias.fill_(score)
    return replace(tracking, model=model)


def recollection(batch: int = 2, *, seed: int = 0) -> Recollection:
    spatial = ((0, noise(batch, 16, 4, 4, seed=seed)), (1, noise(batch, 16, 4, 4, seed=seed + 1)))
    pointers = ((3, noise(batch, 32, seed=seed + 2)), (1, noise(batch, 32, seed=seed + 3)))
    return Recollection(spatial, pointers, span=4)


def of_object(told: Recollection, index: int) -> Recollection:
    part = slice(index, index + 1)
    return Recollection(
        tuple((age, x[part]) for age, x in told.spatial),
        tuple((distance, x[part]) for distance, x in told.pointers),
        told.span,
    )


def assert_same(ours: TrackedFrame, theirs: TrackedFrame) -> None:
    for name in ("logits", "ious", "object_scores", "pointers"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-4, rtol=1e-3)


def test_single_images_see_a_frame_that_nothing_is_remembered_of(tracking: Tracking) -> None:
    pixels = noise(2, 3, 64, 64)
    raw, seen = tracking.model.encode_frame(pixels), tracking.model.encode(pixels)
    assert torch.equal(tracking.unreminded(raw).embedding, seen.embedding)
    difference = seen.embedding - raw.embedding
    torch.testing.assert_close(
        difference, tracking.model.no_mem_embed[0, 0, :, None, None].expand_as(difference)
    )


def test_a_batch_of_objects_equals_each_alone(tracking: Tracking, features: ImageFeatures) -> None:
    tracking, told = with_presence(tracking, 1.0), recollection()
    together = tracking.answer(tracking.reminded(features, told), *NOTHING)
    memory = tracking.remember(features, together, is_prompted=False)
    for i in range(2):
        nothing = NOTHING[0][:1], NOTHING[1][:1]
        alone = tracking.answer(tracking.reminded(features, of_object(told, i)), *nothing)
        assert_same(together.row(i), alone)
        one = tracking.remember(features, alone, is_prompted=False)
        torch.testing.assert_close(memory.spatial[i : i + 1], one.spatial, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(together.logits[0], together.logits[1], atol=1e-2)


def test_no_prompt_is_one_point_of_padding(tracking: Tracking, features: ImageFeatures) -> None:
    seen = tracking.unreminded(features)
    padding = torch.zeros(2, 1, 2), torch.full((2, 1), -1)
    assert_same(tracking.answer(seen, *NOTHING), tracking.answer(seen, *padding))


def test_ambiguous_prompts_get_the_best_of_three_masks(tracking: Tracking, features: ImageFeatures) -> None:
    tracking = with_presence(tracking, 1.0)
    seen = tracking.unreminded(features)
    point = torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])
    everything = tracking.model.decode_all(seen, *point)
    best = 1 + int(everything.ious[0, 1:].argmax())
    answer = tracking.answer(seen, *point)
    torch.testing.assert_close(answer.logits[0, 0], everything.logits[0, best])
    torch.testing.assert_close(answer.pointers, tracking.model.obj_ptr_proj(everything.tokens[:, best]))


def test_boxes_get_the_single_mask(tracking: Tracking, features: ImageFeatures) -> None:
    tracking = with_presence(tracking, 1.0)
    seen = tracking.unreminded(features)
    box = torch.tensor([[[5.0, 6.0], [40.0, 50.0]]]), torch.tensor([[2, 3]])
    expected = tracking.model.decode(seen, *box, multimask=False)
    answer = tracking.answer(seen, *box)
    torch.testing.assert_close(answer.logits, expected.logits)
    torch.testing.assert_close(answer.pointers, tracking.model.obj_ptr_proj(expected.tokens[:, 0]))


def test_absent_objects_have_no_mask_and_no_pointer_of_their_own(
    tracking: Tracking, features: ImageFeatures
) -> None:
    gone = with_presence(tracking, -1.0)
    answer = gone.answer(gone.unreminded(features), *NOTHING)
    assert (answer.logits == ABSENT).all()
    assert not answer.is_present.any()
    assert torch.equal(answer.pointers, gone.model.no_obj_ptr.expand(2, -1))


def test_the_memory_of_an_absent_object_is_marked(tracking: Tracking, features: ImageFeatures) -> None:
    answer = TrackedFrame(torch.full((1, 1, 16, 16), ABSENT), *(torch.ones(1, n) for n in (1, 1, 32)))
    there = tracking.remember(features, answer, is_prompted=False).spatial
    gone = replace(answer, object_scores=-answer.object_scores)
    marked = tracking.remember(features, gone, is_prompted=False).spatial
    mark = tracking.model.no_obj_embed_spatial[..., None, None].expand_as(there)
    torch.testing.assert_close(marked - there, mark, atol=1e-5, rtol=1e-4)


def test_masks_of_prompted_frames_are_remembered_without_doubts(
    tracking: Tracking, features: ImageFeatures
) -> None:
    weak = TrackedFrame(noise(1, 1, 16, 16), *(torch.ones(1, n) for n in (1, 1, 32)))
    strong = replace(weak, logits=3 * weak.logits)

    def change(*, is_prompted: bool, tracking: Tracking = tracking) -> float:
        spatial = [
            tracking.remember(features, one, is_prompted=is_prompted).spatial for one in (weak, strong)
        ]
        return float((spatial[0] - spatial[1]).abs().max())

    assert change(is_prompted=True) < 1e-4
    assert change(is_prompted=False) > 1e-2
    assert change(is_prompted=True, tracking=replace(tracking, is_binarised=False)) > 1e-2


def test_masks_as_prompts_are_the_answer(tracking: Tracking, features: ImageFeatures) -> None:
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, :, 16:48, 16:48] = 1
    answer = tracking.adopt(features, masks)
    assert answer.logits.shape == (2, 1, 16, 16)
    assert torch.equal(answer.logits > 0, masks[:, :, ::4, ::4] > 0)
    assert answer.logits[0, 0, [6, 0], [6, 0]].tolist() == pytest.approx([10.0, -10.0])
    assert answer.object_scores.flatten().tolist() == [10.0, -10.0]
    assert torch.equal(answer.pointers[1:], tracking.model.no_obj_ptr)


def test_memories_are_kept_in_a_smaller_format(tracking: Tracking, features: ImageFeatures) -> None:
    answer = tracking.answer(tracking.unreminded(features), *NOTHING)
    full = tracking.remember(features, answer, is_prompted=True)
    small = replace(tracking, storage=torch.bfloat16).remember(features, answer, is_prompted=True)
    assert (full.spatial.dtype, small.spatial.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(small.spatial, full.spatial.bfloat16())
    told = Recollection(((0, small.spatial),), ((0, small.pointers),))
    assert tracking.reminded(features, told).embedding.dtype == torch.float32


def test_no_pointers_are_fine(tracking: Tracking, features: ImageFeatures) -> None:
    told = recollection()
    without = tracking.reminded(features, replace(told, pointers=())).embedding
    assert without.shape == (2, 32, 4, 4)
    assert not torch.allclose(without, tracking.reminded(features, told).embedding, atol=1e-3)


@pytest.mark.parametrize(("version", "matters"), [("2.0", False), ("2.1", True)])
def test_times_of_pointers_matter_since_the_second_release(
    features: ImageFeatures, version: str, matters: bool
) -> None:
    tracking = Tracking(small_model(replace(CONFIG, version=version)))
    told = recollection()
    later = replace(told, pointers=tuple((distance + 1, x) for distance, x in told.pointers))
    seen, other = (tracking.reminded(features, one).embedding for one in (told, later))
    assert torch.allclose(seen, other, atol=1e-6) != matters


def test_ages_of_memories_matter(tracking: Tracking, features: ImageFeatures) -> None:
    told = recollection()
    older = replace(told, spatial=tuple((age + 1, x) for age, x in told.spatial))
    seen, other = (tracking.reminded(features, one).embedding for one in (told, older))
    assert not torch.allclose(seen, other, atol=1e-3)


def test_a_clip_can_be_learned_from() -> None:
    tracking = Tracking(small_model().requires_grad_(True), storage=None)
    frames = [tracking.model.encode_frame(noise(1, 3, 64, 64, seed=i)) for i in range(2)]
    point = torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])
    first = tracking.answer(tracking.unreminded(frames[0]), *point)
    memory = tracking.remember(frames[0], first, is_prompted=False)
    told = Recollection(((1, memory.spatial),), ((1, memory.pointers),))
    second = tracking.answer(tracking.reminded(frames[1], told), NOTHING[0][:1], NOTHING[1][:1])
    (second.object_scores.sum() + second.ious.sum()).backward()
    for part in (tracking.model.memory_encoder, tracking.model.memory_attention):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


def test_time_codes_are_sines_then_cosines() -> None:
    code = time_code(torch.tensor([0.0, 0.5]), 8)
    assert code[0].tolist() == [0.0] * 4 + [1.0] * 4
    frequencies = torch.tensor([1.0, 1.0, 0.01, 0.01])
    torch.testing.assert_close(code[1], torch.cat(((0.5 * frequencies).sin(), (0.5 * frequencies).cos())))


def test_what_cannot_track_says_so() -> None:
    with pytest.raises(CapabilityError, match="sam2-nano has no memory"):
        Tracking(Sam2(replace(CONFIG, name="sam2-nano", memory=None)))
    with pytest.raises(SettingsError, match="at least one memory"):
        Recollection(())
    with pytest.raises(SettingsError, match=r"\(2, 16, 4, 4\) and \(1, 32\)"):
        FrameMemory(torch.zeros(2, 16, 4, 4), torch.zeros(1, 32))
