"""One contract over every model of the registry, shrunken to sizes for a unit test."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from napari_segany.models.registry import list_models
from napari_segany.models.sam2 import SAM2, ImageFeatures, Sam2, Sam2Config, build_sam2

from .shrink import WIDTH, shrunken

NAMES = [spec.name for spec in list_models() if spec.family == "sam2"]
# Used by propagation only; tested with it.
MEMORY_PARTS = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "mask_downsample.",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)
# A click, a negative click, a box and a padding point: every kind of point, in pixels of a 64-pixel frame.
XY = torch.tensor([[[4.0, 6.0], [60.0, 55.0], [30.0, 20.0], [10.0, 50.0], [0.0, 0.0]]])
LABELS = torch.tensor([[2, 3, 1, 0, -1]])


@dataclass(frozen=True)
class Small:
    """A shrunken row: the model, and pixels for it."""

    model: Sam2
    pixels: Tensor

    @property
    def config(self) -> Sam2Config:
        return self.model.config


@pytest.fixture(scope="module", params=NAMES)
def small(request: pytest.FixtureRequest) -> Small:
    generator = torch.Generator().manual_seed(7)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = build_sam2(shrunken(SAM2[request.param])).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # tables start at zero, which would hide what they do
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return Small(model, torch.randn(2, 3, 64, 64, generator=generator))


def first_of(features: ImageFeatures) -> ImageFeatures:
    return features.of(torch.tensor([0]))


def mask_prompt(small: Small) -> Tensor:
    side = 4 * small.config.image_size // small.config.stride
    return torch.linspace(-6, 6, side * side).reshape(1, 1, side, side)


@torch.inference_mode()
def test_shapes_follow_the_strides(small: Small) -> None:
    side = small.config.image_size // small.config.stride
    features = small.model.encode(small.pixels)
    assert features.embedding.shape == (2, WIDTH, side, side)
    assert features.fine[0].shape == (2, WIDTH // 8, 4 * side, 4 * side)
    assert features.fine[1].shape == (2, WIDTH // 4, 2 * side, 2 * side)
    everything = small.model.decode_all(first_of(features), XY, LABELS)
    assert everything.logits.shape == (1, 4, 4 * side, 4 * side)
    assert everything.ious.shape == (1, 4)
    assert everything.object_scores.shape == (1, 1)
    assert everything.tokens.shape == (1, 4, WIDTH)
    for multimask, count in ((True, 3), (False, 1)):
        answer = small.model.decode(first_of(features), XY, LABELS, multimask=multimask)
        assert answer.logits.shape == (1, count, 4 * side, 4 * side)
        assert answer.ious.shape == (1, count)


@torch.inference_mode()
def test_answers_are_finite_and_scores_are_fractions(small: Small) -> None:
    features = small.model.encode(small.pixels)
    for masks in (None, mask_prompt(small)):
        answer = small.model.decode_all(first_of(features), XY, LABELS, masks=masks)
        assert torch.isfinite(answer.logits).all()
        assert ((answer.ious >= 0) & (answer.ious <= 1)).all()
        assert answer.logits.std() > 0


@torch.inference_mode()
def test_the_same_question_gets_the_same_answer(small: Small) -> None:
    one, two = (small.model.decode(small.model.encode(small.pixels[:1]), XY, LABELS) for _ in range(2))
    assert torch.equal(one.logits, two.logits)
    assert torch.equal(one.ious, two.ious)


@torch.inference_mode()
def test_images_and_prompts_in_a_batch_do_not_mix(small: Small) -> None:
    batch = small.model.encode(small.pixels)
    for index in range(2):
        alone = small.model.encode(small.pixels[index : index + 1])
        torch.testing.assert_close(
            batch.of(torch.tensor([index])).embedding, alone.embedding, rtol=1e-4, atol=1e-4
        )
    other = torch.cat((XY, XY + 3))
    together = small.model.decode_all(first_of(batch), other, LABELS.expand(2, -1))
    for index in range(2):
        alone = small.model.decode_all(first_of(batch), other[index : index + 1], LABELS)
        torch.testing.assert_close(together.logits[index], alone.logits[0], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_every_part_of_a_prompt_matters(small: Small) -> None:
    features = first_of(small.model.encode(small.pixels))
    base = small.model.decode_all(features, XY, LABELS).logits
    moved = XY.clone()
    moved[0, 2] += 12
    flipped = LABELS.clone()
    flipped[0, 2] = 0
    asked = {
        "a moved click": small.model.decode_all(features, moved, LABELS),
        "a flipped sign": small.model.decode_all(features, XY, flipped),
        "no box": small.model.decode_all(features, XY[:, 2:], LABELS[:, 2:]),
        "a mask": small.model.decode_all(features, XY, LABELS, masks=mask_prompt(small)),
    }
    for what, answer in asked.items():
        assert (answer.logits - base).abs().max() > 1e-4 * base.abs().max(), what


@torch.inference_mode()
def test_a_single_mask_is_one_of_the_four(small: Small) -> None:
    features = first_of(small.model.encode(small.pixels))
    everything = small.model.decode_all(features, XY, LABELS)
    chosen = small.model.decode(features, XY, LABELS, multimask=False).logits[0, 0]
    assert any(torch.equal(chosen, logits) for logits in everything.logits[0])


@torch.inference_mode()
def test_half_precision_is_close_to_full(small: Small) -> None:
    def answers() -> tuple[Tensor, Tensor]:
        features = first_of(small.model.encode(small.pixels))
        return features.embedding.float(), small.model.decode_all(features, XY, LABELS).logits.float()

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
    features = model.encode(small.pixels)
    generator = torch.Generator().manual_seed(3)
    loss = torch.zeros(())
    for masks in (None, mask_prompt(small)):
        answer = model.decode_all(first_of(features), XY, LABELS, masks=masks)
        for part in (answer.logits, answer.ious, answer.object_scores):
            loss = loss + (part * torch.randn(part.shape, generator=generator)).mean()
    loss.backward()
    silent = [
        name
        for name, parameter in model.named_parameters()
        if not name.startswith(MEMORY_PARTS) and (parameter.grad is None or not parameter.grad.any())
    ]
    model.zero_grad()
    assert silent == []


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 96), (64, 48)])
def test_a_trunk_without_a_fixed_frame_takes_other_sizes(size: tuple[int, int]) -> None:
    model = build_sam2(shrunken(SAM2["sam2-nano"])).eval()
    features = model.encode(torch.zeros(1, 3, *size))
    answer = model.decode(features, XY, LABELS)
    stride = model.config.stride
    assert answer.logits.shape == (1, 3, 4 * size[0] // stride, 4 * size[1] // stride)
