"""SAM 2's memory: rotary positions are relative, pointers have no place, memories are a set."""

from __future__ import annotations

import math

import pytest
import torch
from random_weights import randomised
from torch import Tensor

from napari_segany.models.memory import (
    MemoryAttention,
    MemoryConfig,
    MemoryEncoder,
    RotaryAttention,
    axial_rotation,
    mix,
    rotate,
)

WIDTH = 32
CONFIG = MemoryConfig(width=16, layers=2, mlp_width=48)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention() -> MemoryAttention:
    module = randomised(MemoryAttention(WIDTH, CONFIG))
    return module


def test_a_turned_product_depends_on_the_distance_only() -> None:
    size = (5, 7)
    table = axial_rotation(WIDTH, size).unflatten(0, size)
    query, key = noise(1, 1, 1, WIDTH), noise(1, 1, 1, WIDTH, seed=1)

    def product(a: tuple[int, int], b: tuple[int, int]) -> float:
        return float((rotate(query, table[a][None]) * rotate(key, table[b][None])).sum())

    assert product((0, 0), (2, 3)) == pytest.approx(product((2, 1), (4, 4)), abs=1e-5)
    assert product((0, 0), (2, 3)) != pytest.approx(product((0, 0), (3, 2)), abs=1e-3)  # rows are no columns
    assert product((0, 0), (0, 0)) == pytest.approx(float((query * key).sum()), abs=1e-5)


def test_pairs_turn_by_columns_first_and_keep_their_length() -> None:
    table = axial_rotation(WIDTH, (3, 4)).unflatten(0, (3, 4))
    assert torch.equal(table[0, :, WIDTH // 4 :], table[0, :1, WIDTH // 4 :].expand(4, -1))
    assert torch.equal(table[:, 0, : WIDTH // 4], table[:1, 0, : WIDTH // 4].expand(3, -1))
    assert float(table[0, 1, 0].angle()) == pytest.approx(1.0)
    assert float(table[2, 0, WIDTH // 4].angle()) == pytest.approx(2.0)
    x = noise(2, 1, 12, WIDTH)
    torch.testing.assert_close(rotate(x, table.flatten(0, 1)).norm(dim=-1), x.norm(dim=-1))


def test_keys_without_a_place_may_change_their_order() -> None:
    module = randomised(RotaryAttention(WIDTH, 1, key_width=16))
    rotation = axial_rotation(WIDTH, (3, 3))
    queries, keys = noise(2, 9, WIDTH), noise(2, 9 * 2 + 4, 16, seed=1)
    shuffled = torch.cat((keys[:, :18], keys[:, 18:].flip(1)), dim=1)
    with torch.no_grad():
        expected = module.attend(queries, keys, keys, rotation=rotation, still=4)
        torch.testing.assert_close(
            module.attend(queries, shuffled, shuffled, rotation=rotation, still=4), expected
        )
        turned = module.attend(queries, keys.flip(1), keys.flip(1), rotation=rotation, still=4)
    assert not torch.allclose(turned, expected, atol=1e-3)


def test_frames_are_a_set_but_places_are_not() -> None:
    module, features = attention(), noise(1, WIDTH, 4, 5)
    codes = noise(1, WIDTH, 4, 5, seed=1), noise(1, 40, 16, seed=2)
    memories = noise(1, 40, 16, seed=3)

    def swapped(x: Tensor) -> Tensor:
        return torch.cat((x[:, 20:], x[:, :20]), dim=1)

    with torch.no_grad():
        expected = module(features, memories, codes=codes, pointers=0)
        other = module(features, swapped(memories), codes=(codes[0], swapped(codes[1])), pointers=0)
        moved = module(features, memories.roll(1, dims=1), codes=(codes[0], codes[1].roll(1, 1)), pointers=0)
    assert expected.shape == features.shape
    torch.testing.assert_close(other, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(moved, expected, atol=1e-3)


def test_a_batch_of_objects_equals_each_alone() -> None:
    module, features, memories = attention(), noise(3, WIDTH, 4, 4), noise(3, 18, 16, seed=3)
    codes = noise(1, WIDTH, 4, 4, seed=1), noise(3, 18, 16, seed=2)
    with torch.no_grad():
        together = module(features, memories, codes=codes, pointers=2)
        for i in range(3):
            own = slice(i, i + 1)
            alone = module(features[own], memories[own], codes=(codes[0], codes[1][own]), pointers=2)
            torch.testing.assert_close(alone, together[own], atol=1e-5, rtol=1e-4)


def test_the_encoder_looks_at_image_and_mask() -> None:
    encoder = randomised(MemoryEncoder(WIDTH, CONFIG))
    features, masks = noise(2, WIDTH, 4, 6), 20 * (noise(2, 1, 64, 96, seed=1) > 0).float() - 10
    with torch.no_grad():
        memory = encoder(features, masks)
        assert memory.shape == (2, 16, 4, 6)
        assert not torch.allclose(encoder(features, -masks), memory, atol=1e-2)
        assert not torch.allclose(encoder(-features, masks), memory, atol=1e-2)
        local = masks.clone()
        local[:, :, :16, :16] *= -1
        change = (encoder(features, local) - memory).abs().amax(dim=(0, 1))
    assert change[0, 0] > 2 * change[3, 5]


def told(batch: int, *, size: tuple[int, int] = (6, 5)) -> dict[str, object]:
    """Return memories of two maps and three pointers of a batch, with codes."""
    count = 2 * size[0] * size[1] + 3
    codes = noise(1, WIDTH, *size, seed=7), noise(1, count, 16, seed=8).expand(batch, -1, -1)
    return {"memories": noise(batch, count, 16, seed=9), "codes": codes, "pointers": 3}


@torch.no_grad()
def test_one_frame_for_all_objects_equals_a_copy_for_each() -> None:
    module, features = attention(), noise(1, WIDTH, 6, 5)
    together = module(features, **told(3))
    torch.testing.assert_close(together, module(features.expand(3, -1, -1, -1), **told(3)))
    alone = module(features, **{**told(3), "memories": told(3)["memories"][1:2], "codes": told(1)["codes"]})
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


def test_without_gradients_the_same_is_worked_out() -> None:
    module, features = attention(), noise(2, WIDTH, 6, 5)
    with torch.no_grad():
        plain = module(features, **told(2))
    torch.testing.assert_close(plain, module(features, **told(2)), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_values_may_be_mixed_before_they_are_projected() -> None:
    module = randomised(RotaryAttention(WIDTH, 1, key_width=16))
    queries, keys, values = noise(1, 70, WIDTH), noise(2, 40, WIDTH, seed=1), noise(2, 40, 16, seed=2)
    late = module.v_proj(mix(queries, keys, values))
    weights = (queries @ keys.transpose(1, 2) / WIDTH**0.5).softmax(dim=-1)
    torch.testing.assert_close(late, weights @ module.v_proj(values), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_that_do_not_fit_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    args = noise(2, 200, WIDTH), noise(2, 40, WIDTH, seed=1), noise(2, 40, 16, seed=2)
    whole = mix(*args)
    monkeypatch.setattr("napari_segany.models.memory._SCORES", 64 * 40)
    torch.testing.assert_close(mix(*args), whole)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_key_that_counts_as_three_is_three_of_them(dtype: torch.dtype) -> None:
    module = randomised(RotaryAttention(WIDTH, 1, key_width=16)).to(dtype)
    queries, keys = noise(1, 9, WIDTH).to(dtype), noise(2, 9, 16, seed=1).to(dtype)
    turn = axial_rotation(WIDTH, (3, 3))
    counts = torch.zeros(2, 9).index_fill_(1, torch.tensor([4]), math.log(3)).to(dtype)
    order = torch.tensor([*range(9), 4, 4])
    counted = module.attend(queries, keys, keys, rotation=turn, key_rotation=turn, log_counts=counts)
    repeated = module.attend(
        queries.expand(2, -1, -1), keys[:, order], keys[:, order], rotation=turn, key_rotation=turn[order]
    )
    close = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(counted.float(), repeated.float(), atol=close, rtol=1e-3)


@torch.no_grad()
def test_products_in_bfloat16_are_near_those_in_float32() -> None:
    module, features = attention(), noise(1, WIDTH, 6, 5)
    exact = module(features, **told(2))
    for part in module.products():
        part.to(torch.bfloat16)
    rough = module(features, **told(2))
    assert rough.dtype == torch.float32  # sums and norms stay as they were
    assert module.norm.weight.dtype == module.layers[0].norm1.weight.dtype == torch.float32
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.05
