"""The spatial perceiver: tokens with a place see their window, the others see all; and tracking with tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from random_weights import randomised
from torch import Tensor

from napari_segany.core.errors import SettingsError
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.layers import sine_position_code
from napari_segany.models.mask_decoder import DecoderConfig
from napari_segany.models.memory import MemoryAttention, MemoryConfig, axial_rotation, token_rotation
from napari_segany.models.perceiver import LookAround, LookWithin, PerceiverConfig, SpatialPerceiver
from napari_segany.models.repvit import RepVitConfig
from napari_segany.models.sam2 import Sam2, Sam2Config
from napari_segany.models.tracking import FrameMemory, Recollection, TrackedFrame, Tracking

WIDTH = 16
CONFIG = PerceiverConfig(latents=5, side=2)
MODEL = Sam2Config(
    "small",
    RepVitConfig(widths=(8, 8, 16, 16), depths=(1, 1, 2, 1)),
    version="2.0",
    image_size=64,
    width=32,
    decoder=DecoderConfig(mlp_width=64, iou_width=32),
    memory=MemoryConfig(width=WIDTH, layers=2, mlp_width=64, frames=4, pointers=5, perceiver=CONFIG),
)
NOTHING = torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.long)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_model() -> Sam2:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return randomised(Sam2(MODEL))


@pytest.fixture(scope="module")
def perceiver() -> SpatialPerceiver:
    return randomised(SpatialPerceiver(WIDTH, CONFIG)).requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def tracking() -> Tracking:
    return Tracking(small_model().requires_grad_(requires_grad=False), storage=None)


@pytest.fixture(scope="module")
def features(tracking: Tracking) -> ImageFeatures:
    return tracking.model.encode_frame(noise(1, 3, 64, 64))


def changed(perceiver: SpatialPerceiver, memory: Tensor, other: Tensor) -> list[bool]:
    """Return which tokens differ between two memories."""
    return ((perceiver(other) - perceiver(memory)).abs().amax(dim=(0, 2)) > 1e-4).tolist()


@pytest.mark.parametrize("size", [(4, 4), (2, 6), (8, 4)])
def test_maps_of_any_size_become_as_many_tokens(perceiver: SpatialPerceiver, size: tuple[int, int]) -> None:
    assert perceiver(noise(3, WIDTH, *size)).shape == (3, CONFIG.tokens, WIDTH) == (3, 9, WIDTH)


def test_a_token_with_a_place_sees_its_window_only(perceiver: SpatialPerceiver) -> None:
    memory = noise(1, WIDTH, 4, 6)
    for index, window in enumerate([(0, 0), (0, 3), (2, 0), (2, 3)]):
        other = memory.clone()
        other[:, :, window[0] + 1, window[1] + 2] = noise(WIDTH, seed=index + 1)
        seen = [number == index for number in range(4)]
        assert changed(perceiver, memory, other) == [True] * CONFIG.latents + seen


def test_order_within_a_window_counts_for_the_others_only(perceiver: SpatialPerceiver) -> None:
    memory = noise(1, WIDTH, 4, 4)
    turned = memory.unflatten(3, (2, 2)).unflatten(2, (2, 2)).flip((3, 5)).flatten(4).flatten(2, 3)
    assert changed(perceiver, memory, turned) == [True] * CONFIG.latents + [False] * 4


def test_codes_are_those_of_the_grid_and_zero_elsewhere(perceiver: SpatialPerceiver) -> None:
    code = perceiver.code()
    assert code.shape == (CONFIG.tokens, WIDTH)
    assert not code[: CONFIG.latents].any()
    grid = sine_position_code(WIDTH, (2, 2))
    assert torch.equal(code[CONFIG.latents :].T.reshape(WIDTH, 2, 2), grid)


def test_codes_go_into_keys_and_values() -> None:
    look = randomised(LookAround(WIDTH))
    latents, x, code = noise(2, 3, WIDTH), noise(2, 7, WIDTH, seed=1), noise(7, WIDTH, seed=2)
    with torch.no_grad():
        keys, values = look.to_kv(look.norm_x(x)).chunk(2, dim=-1)
        queries = look.to_q(look.norm_latents(latents)) / WIDTH**0.5
        weights = (queries @ (keys + code).transpose(1, 2)).softmax(dim=-1)
        torch.testing.assert_close(look(latents, x, code), look.to_out(weights @ (values + code)))


def test_a_latent_alone_attends_to_itself() -> None:
    look, latent = randomised(LookWithin(WIDTH)), noise(4, 1, WIDTH)
    with torch.no_grad():
        values = look.to_kv(look.norm(latent))[..., WIDTH:]
        torch.testing.assert_close(look(latent), look.to_out(values))


def test_a_batch_equals_each_alone(perceiver: SpatialPerceiver) -> None:
    memory = noise(3, WIDTH, 4, 4)
    together = perceiver(memory)
    for i in range(3):
        torch.testing.assert_close(perceiver(memory[i : i + 1]), together[i : i + 1], atol=1e-5, rtol=1e-4)


def test_sizes_that_do_not_fit_are_refused(perceiver: SpatialPerceiver) -> None:
    with pytest.raises(SettingsError, match=r"\(4, 5\) cells .* multiples of 2"):
        perceiver(noise(1, WIDTH, 4, 5))
    with pytest.raises(SettingsError, match="latents=0"):
        PerceiverConfig(latents=0)


def test_tokens_with_a_place_are_rotated_as_the_grid_is() -> None:
    rotation = token_rotation(32, CONFIG)
    assert torch.equal(rotation[: CONFIG.latents], torch.ones(CONFIG.latents, 16, dtype=torch.complex64))
    assert torch.equal(rotation[CONFIG.latents :], axial_rotation(32, (2, 2)))


def test_tokens_without_a_place_may_change_their_order_within_a_frame() -> None:
    memory = MODEL.memory
    assert memory is not None
    module = randomised(MemoryAttention(32, memory)).requires_grad_(requires_grad=False)
    memories, features = noise(1, 2 * CONFIG.tokens + 3, WIDTH), noise(1, 32, 4, 4, seed=1)
    codes = noise(1, 32, 4, 4, seed=2), torch.zeros(1, 2 * CONFIG.tokens + 3, WIDTH)

    def seen(order: list[int]) -> Tensor:
        mixed = memories[:, [*order, *range(len(order), memories.shape[1])]]
        return module(features, mixed, codes=codes, pointers=3)

    expected = seen(list(range(9)))
    torch.testing.assert_close(seen([4, 1, 3, 2, 0, 5, 6, 7, 8]), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(seen([0, 1, 2, 3, 4, 6, 5, 7, 8]), expected, atol=1e-3)
    assert not torch.allclose(seen([7, 1, 2, 3, 4, 5, 6, 0, 8]), expected, atol=1e-3)
    second = [*range(9), *(9 + place for place in (4, 1, 3, 2, 0, 5, 6, 7, 8))]  # frames repeat the pattern
    torch.testing.assert_close(seen(second), expected, atol=1e-5, rtol=1e-4)


def test_a_frame_is_remembered_in_tokens(tracking: Tracking, features: ImageFeatures) -> None:
    answer = tracking.answer(tracking.unreminded(features), *NOTHING)
    memory = tracking.remember(features, answer, is_prompted=False)
    assert memory.spatial.shape == (2, CONFIG.tokens, WIDTH)
    assert torch.equal(memory.row(1).spatial, memory.spatial[1:])
    small = replace(tracking, storage=torch.bfloat16).remember(features, answer, is_prompted=False)
    assert torch.equal(small.spatial, memory.spatial.bfloat16())


def test_objects_that_are_followed_together_are_answered_as_each_alone(
    tracking: Tracking, features: ImageFeatures
) -> None:
    first = TrackedFrame(9 * noise(2, 1, 16, 16), torch.ones(2, 1), torch.ones(2, 1), noise(2, 32, seed=1))
    memory = tracking.remember(features, first, is_prompted=True)

    def followed(memory: FrameMemory) -> Tensor:
        told = Recollection(((0, memory.spatial), (1, memory.spatial)), ((1, memory.pointers),))
        return tracking.reminded(features, told).embedding

    together = followed(memory)
    assert together.shape == (2, 32, 4, 4)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    for i in range(2):
        torch.testing.assert_close(followed(memory.row(i)), together[i : i + 1], atol=1e-4, rtol=1e-3)


def test_a_clip_teaches_every_part_of_the_perceiver() -> None:
    tracking = Tracking(small_model(), storage=None)
    frames = [tracking.model.encode_frame(noise(1, 3, 64, 64, seed=i)) for i in range(2)]
    point = torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]])
    first = tracking.answer(tracking.unreminded(frames[0]), *point)
    memory = tracking.remember(frames[0], first, is_prompted=False)
    seen = tracking.reminded(frames[1], Recollection(((1, memory.spatial),), ((1, memory.pointers),)))
    (seen.embedding * noise(*seen.embedding.shape, seed=5)).sum().backward()
    silent = [
        name
        for name, p in tracking.model.spatial_perceiver.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    assert silent == []
