"""One contract over every SAM and SAM 2 of the registry, shrunken to sizes for a unit test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from napari_segany.models.build import CONFIGS, build_model
from napari_segany.models.mask_decoder import MaskOutput
from napari_segany.models.prompt_encoder import obeyed
from napari_segany.models.registry import list_models

from .shrink import ALIKE, PROMPTABLE, SEMANTIC, WIDTH, shrunken
from .small import LABELS, XY, Small, small_row

# Used by propagation only, and tested with it; what TinyViT's checkpoints hold of a classifier; and what chooses, which
# learns from what came of each choice (tests/train/test_ways.py), or foretells sizes (tests/train/test_sides.py).
UNUSED = (
    "size_head.",
    "memory.",
    "memory_attention.",
    "memory_encoder.",
    "spatial_perceiver.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    "image_encoder.norm_head.",
    "image_encoder.head.",
    "sam_mask_decoder.fine.choice.",
)


@pytest.fixture(scope="module", params=PROMPTABLE)
def small(request: pytest.FixtureRequest) -> Small:
    return small_row(request.param)


def test_every_row_is_under_contract() -> None:
    covered = {name for names in ALIKE.values() for name in names}
    assert covered == {spec.name for spec in list_models()}
    assert set(ALIKE) == {*PROMPTABLE, *SEMANTIC}


@torch.inference_mode()
def test_shapes_follow_the_strides(small: Small) -> None:
    side, is_second = small.config.image_size // small.config.stride, small.config.decoder.generation == 2
    features = small.model.encode(small.pixels)
    assert features.embedding.shape == (2, WIDTH, side, side)
    if is_second:
        assert features.fine[0].shape == (2, WIDTH // 8, 4 * side, 4 * side)
        assert features.fine[1].shape == (2, WIDTH // 4, 2 * side, 2 * side)
    everything = small.model.decode_all(small.features(), XY, LABELS)
    assert everything.logits.shape == (1, 4, 4 * side, 4 * side)
    assert everything.ious.shape == (1, 4)
    assert everything.tokens.shape == (1, 4, WIDTH)
    assert everything.fine is None
    assert (everything.object_scores is not None) == is_second
    if everything.object_scores is not None:
        assert everything.object_scores.shape == (1, 1)
    for multimask, count in ((True, 3), (False, 1)):
        answer = small.model.decode(small.features(), XY, LABELS, multimask=multimask)
        assert answer.logits.shape == (1, count, 4 * side, 4 * side)
        assert answer.ious.shape == (1, count)


@torch.inference_mode()
def test_answers_are_finite_and_differ_over_the_image(small: Small) -> None:
    for masks in (None, small.mask_prompt()):
        answer = small.model.decode_all(small.features(), XY, LABELS, masks=masks)
        assert torch.isfinite(answer.logits).all()
        assert torch.isfinite(answer.ious).all()
        assert answer.logits.std() > 0
        if small.config.decoder.generation == 2:
            assert ((answer.ious >= 0) & (answer.ious <= 1)).all()


@torch.inference_mode()
def test_the_same_question_gets_the_same_answer(small: Small) -> None:
    one, two = (small.model.decode(small.features(), XY, LABELS) for _ in range(2))
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.ious, two.ious)


@torch.inference_mode()
def test_images_and_prompts_in_a_batch_do_not_mix(small: Small) -> None:
    batch = small.model.encode(small.pixels)
    for index in range(2):
        alone = small.model.encode(small.pixels[index : index + 1])
        own = batch.of(torch.tensor([index]))
        for ours, theirs in zip((own.embedding, *own.fine), (alone.embedding, *alone.fine), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    other, first = torch.cat((XY, XY + 3)), batch.of(torch.tensor([0]))
    together = small.model.decode_all(first, other, LABELS.expand(2, -1))
    for index in range(2):
        alone = small.model.decode_all(first, other[index : index + 1], LABELS)
        torch.testing.assert_close(together.logits[index], alone.logits[0], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_one_image_serves_many_prompts_as_copies_of_it_do(small: Small) -> None:
    batch, has_fine = small.model.encode(small.pixels), small.config.has_fine
    prompts = torch.cat((XY, XY + 3, XY.flip(1)))
    labels = LABELS.expand(3, -1)
    shared, copied = (
        small.model.decode_all(batch.of(torch.tensor(index)), prompts, labels, with_fine=has_fine)
        for index in ([0], [0, 0, 0])
    )
    _assert_alike(shared, copied)


@torch.inference_mode()
def test_a_look_taken_at_the_image_before_changes_no_answer(small: Small) -> None:
    model, plain = small.model, small.features()
    prepared = model.prepared(plain)
    assert (prepared.look is None) == (small.config.click_sigma is not None)
    for masks in (None, small.mask_prompt()):
        for prompts in (XY, torch.cat((XY, XY + 3, XY.flip(1)))):
            labels = LABELS.expand(len(prompts), -1)
            earlier = None if masks is None else masks.expand(len(prompts), -1, -1, -1)
            ready, afresh = (
                model.decode_all(one, prompts, labels, masks=earlier, with_fine=small.config.has_fine)
                for one in (prepared, plain)
            )
            _assert_alike(ready, afresh)
    moved = (16.0, 32.0)  # a part of a larger frame has other position codes
    ready, afresh = (model.decode_all(replace(one, origin=moved), XY, LABELS) for one in (prepared, plain))
    _assert_alike(ready, afresh)


@torch.inference_mode(mode=False)
def test_inference_takes_shorter_ways_to_the_same_numbers(small: Small) -> None:
    def answer() -> MaskOutput:
        return small.model.decode_all(small.features(), XY, LABELS, with_fine=small.config.has_fine)

    with torch.no_grad():
        fast = answer()
    with torch.enable_grad():
        slow = answer()
    assert slow.logits.requires_grad
    _assert_alike(fast, slow)


def _assert_alike(one: MaskOutput, two: MaskOutput) -> None:
    """Compare answers within what the order of float32 sums leaves open."""
    for name in ("logits", "ious", "object_scores", "tokens", "fine"):
        ours, theirs = getattr(one, name), getattr(two, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            scale = float(theirs.detach().abs().max())
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(scale, 1e-3), msg=name)


@torch.inference_mode()
def test_every_part_of_a_prompt_matters(small: Small) -> None:
    features = small.features()
    base = small.model.decode_all(features, XY, LABELS).logits
    moved, flipped = XY.clone(), LABELS.clone()
    moved[0, 2] += 12
    flipped[0, 2] = 0
    asked = {
        "a moved click": small.model.decode_all(features, moved, LABELS),
        "a flipped sign": small.model.decode_all(features, XY, flipped),
        "no box": small.model.decode_all(features, XY[:, 2:], LABELS[:, 2:]),
        "a mask": small.model.decode_all(features, XY, LABELS, masks=small.mask_prompt()),
    }
    for what, answer in asked.items():
        assert (answer.logits - base).abs().max() > 1e-4 * base.abs().max(), what


@torch.inference_mode()
def test_a_single_mask_is_one_of_the_four_or_what_they_agree_on(small: Small) -> None:
    features = small.features()
    everything = small.model.decode_all(features, XY, LABELS)
    chosen = small.model.decode(features, XY, LABELS, multimask=False)
    if small.config.decoder.judges:  # by masks that obey each click; cut where those of one object agree
        share = obeyed(everything.logits, XY, LABELS, frame=small.model.frame_of(features))
        assert (everything.ious * share - chosen.ious).abs().min() < 1e-6
        lowest, highest = everything.logits.amin(1) - 1e-4, everything.logits.amax(1) + 1e-4
        assert ((chosen.logits[:, 0] >= lowest) & (chosen.logits[:, 0] <= highest)).all()
        return
    far = (everything.logits[0] - chosen.logits[0]).abs().amax(dim=(1, 2))  # (4,)
    assert far.min() <= 1e-5 * everything.logits.abs().max()
    torch.testing.assert_close(chosen.ious[0, 0], everything.ious[0, far.argmin()])
    if small.config.decoder.generation == 1:
        assert far.argmin() == 0


@torch.inference_mode()
def test_half_precision_is_close_to_full(small: Small) -> None:
    def answers() -> tuple[Tensor, Tensor]:
        features = small.features()
        answer = small.model.decode_all(features, XY, LABELS, with_fine=small.config.has_fine)
        logits = answer.logits if answer.fine is None else answer.fine
        return features.embedding.float(), logits.float()

    full = answers()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = answers()
    for ours, exact in zip(half, full, strict=True):
        assert torch.isfinite(ours).all()
        assert (ours - exact).norm() < 0.05 * exact.norm()
        assert not torch.equal(ours, exact)


def test_every_parameter_of_the_image_path_learns(small: Small) -> None:
    model = small.model
    model.zero_grad()
    features = small.features()
    generator = torch.Generator().manual_seed(3)
    loss = torch.zeros(())
    for masks in (None, small.mask_prompt()):
        answer = model.decode_all(features, XY, LABELS, masks=masks, with_fine=small.config.has_fine)
        answer = model.decoder.changed(answer, fine="added" if small.config.has_fine else "off")
        answer = model.decoder.finish(answer)
        for part in (answer.logits, answer.ious, answer.object_scores, answer.fine):
            if part is not None:
                loss = loss + (part * torch.randn(part.shape, generator=generator)).mean()
    loss.backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if not name.startswith(UNUSED) and (parameter.grad is None or not parameter.grad.any())
    ]
    model.zero_grad()
    assert silent == []


@torch.inference_mode()
@pytest.mark.parametrize("name", ["sam2-nano", "sam2-hq-nano"])
@pytest.mark.parametrize("size", [(32, 96), (64, 48)])
def test_a_trunk_without_a_fixed_frame_takes_other_sizes(name: str, size: tuple[int, int]) -> None:
    model = build_model(shrunken(CONFIGS[name])).eval()
    features = model.encode(torch.zeros(1, 3, *size))
    answer = model.decode(features, XY, LABELS, fine="added" if model.config.has_fine else "off")
    answer = model.decoder.finish(answer)
    stride = model.config.stride
    assert answer.logits.shape == (1, 3, 4 * size[0] // stride, 4 * size[1] // stride)
    if model.config.has_fine:
        assert answer.fine is not None
        assert answer.fine.shape == (1, 3, *size)
