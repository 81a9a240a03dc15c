"""EdgeTAM's golden case catches disturbed weights of what is EdgeTAM's own, and only behind where they work.

Its random encoder gives embeddings of some 100,000, beside which nothing recalled is seen: how tokens are attended to
is tested with the perceiver (`tests/models/test_perceiver.py`).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from . import edgetam
from .case import CASES, Case, UnsupportedCaseError, compare, read_case


@pytest.fixture(scope="module")
def case() -> Case:
    return read_case(CASES / "edgetam_tiny")


def failed(case: Case) -> set[str]:
    return {one.name for one in compare(case) if not one.passes}


@pytest.mark.parametrize(
    ("key", "failing", "passing"),
    [
        ("image_encoder.trunk.body.stages_1.blocks.0.se.fc2.bias", "encoder/trunk1", "encoder/trunk0"),
        (
            "image_encoder.trunk.body.stages_1.downsample.ffn.conv2.bn.bias",
            "encoder/trunk1",
            "encoder/trunk0",
        ),
        ("spatial_perceiver.latents", "video/f0/maskmem_features", "video/f0/low_res"),
        ("spatial_perceiver.latents_2d", "video/f0/maskmem_features", "video/f0/low_res"),
        ("spatial_perceiver.layers.1.self_ff.3.weight", "video/f5/maskmem_features", "video/f0/low_res"),
    ],
)
def test_a_disturbed_weight_shows_where_it_works(case: Case, key: str, failing: str, passing: str) -> None:
    weights = {**case.weights, key: case.weights[key].float() * 1.05 + 0.01}
    names = failed(replace(case, weights=weights))
    assert failing in names
    assert passing not in names


def test_other_perceivers_are_refused(case: Case) -> None:
    config = case.description["config"]
    other = config | {"perceiver": config["perceiver"] | {"concat_kv_latents": True}}
    with pytest.raises(UnsupportedCaseError, match="concat_kv_latents is True"):
        edgetam.outputs(replace(case, description=case.description | {"config": other}))
