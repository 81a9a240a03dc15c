"""Every SAM 2 row builds with exactly the keys and shapes of its released checkpoint, on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_segany.core.errors import WeightsError
from napari_segany.models.registry import list_models, spec_of
from napari_segany.models.sam2 import Sam2, build_sam2
from napari_segany.models.weights import identify, load_strictly

LAYOUTS = {path.stem: path for path in (Path(__file__).parents[1] / "golden" / "layouts").glob("sam2*.json")}
NAMES = [spec.name for spec in list_models("sam2*") if not spec.is_bundled]


def layout_of(name: str) -> dict[str, Any]:
    return json.loads(LAYOUTS[name].read_text())


def meta_model(name: str) -> Sam2:
    with torch.device("meta"):
        return build_sam2(name)


def meta_weights(layout: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in layout["keys"].items()}


def test_every_released_row_has_a_layout() -> None:
    assert set(NAMES) == set(LAYOUTS)


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes_are_those_of_the_checkpoint(name: str) -> None:
    layout, model = layout_of(name), meta_model(name)
    ours = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == layout["keys"]
    assert [key for key, _ in model.named_buffers() if key in ours] == layout["buffers"]


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_row(name: str) -> None:
    layout, spec = layout_of(name), spec_of(name)
    assert sum(parameter.numel() for parameter in meta_model(name).parameters()) == layout["n_parameters"]
    assert spec.n_parameters == layout["n_parameters"]
    assert spec.layout.n_keys == layout["n_keys"] == len(layout["keys"])


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_identified_by_their_layout(name: str) -> None:
    weights = meta_weights(layout_of(name))
    assert identify(weights) == name
    del weights["no_mem_embed"]
    assert identify(weights) is None


@pytest.mark.parametrize("name", [spec.name for spec in list_models("sam2-*")])
def test_a_bundled_row_is_identified_by_its_own_state_dict(name: str) -> None:
    assert identify(meta_model(name).state_dict()) == name


def test_other_weights_are_not_identified() -> None:
    assert identify({"fc.weight": torch.zeros(2, 2)}) is None


def test_weights_of_another_row_are_named_in_the_error() -> None:
    with pytest.raises(WeightsError, match=r"sam2\.1_hiera_small") as caught:
        load_strictly(
            meta_model("sam2.1_hiera_tiny"), meta_weights(layout_of("sam2.1_hiera_small")), where="x.pt"
        )
    assert "50 unexpected" in str(caught.value)
    assert "and 40 more" in str(caught.value)
