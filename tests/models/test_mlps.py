"""Small networks of one form, run side by side."""

from __future__ import annotations

import pytest
import torch

from napari_segany.models.layers import Mlp, side_by_side


@pytest.mark.parametrize("has_sigmoid", [False, True])
@pytest.mark.parametrize("widths", [(6, 3), (6, 5, 4, 2)])
def test_networks_side_by_side_answer_as_one_by_one(widths: tuple[int, ...], has_sigmoid: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        networks = [Mlp(widths, has_sigmoid=has_sigmoid) for _ in range(3)]
        x = torch.randn(3, 5, widths[0])
    with torch.no_grad():
        expected = torch.stack([network(own) for network, own in zip(networks, x, strict=True)])
        torch.testing.assert_close(side_by_side(networks, x), expected)
