"""Every released row builds with exactly the keys and shapes of its checkpoint, on the meta device."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_segany.core.errors import WeightsError
from napari_segany.models.build import CONFIGS, build_model, key_map_of
from napari_segany.models.image_model import ImageModel
from napari_segany.models.registry import ModelSpec, list_models, spec_of
from napari_segany.models.weights import identify, load_strictly

FOLDER = Path(__file__).parents[1] / "golden" / "layouts"
LAYOUTS = {path.stem: path for path in FOLDER.glob("*.json") if "decoder" not in path.stem}
NAMES = [spec.name for spec in list_models() if not spec.is_bundled]
TOKEN = {
    "sam": "mask_decoder.iou_token.weight",
    "sam2": "sam_mask_decoder.iou_token.weight",
    "semantic": "sem_seg_head.predictor.mask_tokens.weight",
}
COMPUTED = "relative_position_index"  # what Semantic-SAM's files hold of it is worked out here
RESIZING = {"sam": "pad", "sam2": "stretch", "semantic": "short"}


def original_of(spec: ModelSpec) -> str:
    """Return the row that a row has the layout of: micro-sam's files have those of SAM and MobileSAM."""
    if not spec.name.startswith("microsam"):
        return spec.name
    return "mobile_sam" if spec.trunk == "tiny_vit" else f"sam_{spec.trunk}"


def file_of(name: str) -> str:
    """Return the name of a row's layout."""
    original = original_of(spec_of(name))
    return "mobile_sam_vit_t" if original == "mobile_sam" else original


@lru_cache
def stored_layout(file: str) -> dict[str, Any]:
    return json.loads(LAYOUTS[file].read_text())


def layout_of(name: str) -> dict[str, Any]:
    return stored_layout(file_of(name))


def shapes_of(name: str) -> dict[str, list[int]]:
    """Return the checkpoint's shapes by key; some layouts keep more than the shape of each."""
    entries = layout_of(name)["keys"].items()
    return {read_key(key): entry["shape"] if isinstance(entry, dict) else entry for key, entry in entries}


def read_key(key: str) -> str:
    """Return a key as `read_weights` gives it: Semantic-SAM's files have "model." before each."""
    return key.removeprefix("model.")


def buffers_of(name: str) -> list[str]:
    """Return which keys of the checkpoint are no parameters."""
    layout = layout_of(name)
    if "buffers" in layout:
        return [read_key(key) for key in layout["buffers"]]
    return [key for key, entry in layout["keys"].items() if entry["kind"] == "buffer"]


@lru_cache
def meta_model(name: str) -> ImageModel:
    with torch.device("meta"):
        return build_model(name)


def meta_weights(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in shapes_of(name).items()}


def test_layouts_and_released_rows_belong_together() -> None:
    assert {file_of(name) for name in NAMES} == set(LAYOUTS)


@pytest.mark.parametrize("name", NAMES)
def test_keys_and_shapes_are_those_of_the_checkpoint(name: str) -> None:
    model, key_map = meta_model(name), key_map_of(CONFIGS[name])
    theirs = {key_map(key): shape for key, shape in shapes_of(name).items() if key_map(key) is not None}
    again = {read_key(key): read_key(of) for key, of in layout_of(name).get("shared", {}).items()}
    used = Counter(again.get(key, key) for key in shapes_of(name) if key_map(key) is not None)
    assert sum(used.values()) == len(used) == len(theirs)  # no tensor twice, and no two keys became one
    needed = {again.get(key, key) for key in shapes_of(name) if not key.endswith(COMPUTED)}
    assert used.keys() == needed
    ours = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert ours == theirs
    parameters = {key for key, _ in model.named_parameters()}
    assert ours.keys() - parameters == {key_map(key) for key in buffers_of(name)} - {None}


@pytest.mark.parametrize("name", NAMES)
def test_counts_are_those_of_the_row(name: str) -> None:
    layout, spec = layout_of(name), spec_of(name)
    count = layout["n_parameters"] if "n_parameters" in layout else layout["n_unique_parameters"]
    assert sum(parameter.numel() for parameter in meta_model(name).parameters()) == count
    assert spec.n_parameters == count
    assert spec.layout.n_keys == layout["n_keys"] == len(layout["keys"])


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_agrees_with_the_row(name: str) -> None:
    config, spec = CONFIGS[name], spec_of(name)
    assert config.has_fine == spec.has_fine
    assert config.image_size == spec.image_size
    assert config.resizing == RESIZING[spec.family]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_identified_by_their_layout(name: str) -> None:
    spec, weights = spec_of(name), meta_weights(name)
    assert identify(weights) == original_of(spec)
    del weights[TOKEN[spec.family]]
    assert identify(weights) is None


@pytest.mark.parametrize("name", [spec.name for spec in list_models() if spec.is_bundled])
def test_a_bundled_row_is_identified_by_its_own_state_dict(name: str) -> None:
    assert identify(meta_model(name).state_dict()) == name


def test_every_row_has_a_configuration() -> None:
    assert {spec.name for spec in list_models()} <= set(CONFIGS)


def test_other_weights_are_not_identified() -> None:
    assert identify({"fc.weight": torch.zeros(2, 2)}) is None


@pytest.mark.parametrize(
    ("name", "other", "unexpected"),
    [
        ("sam2.1_hiera_tiny", "sam2.1_hiera_small", 50),
        ("sam_vit_b", "sam_hq_vit_b", 25),
        ("mobile_sam", "sam_hq_vit_tiny", 25),
        ("sam2.1_hiera_large", "sam2.1_hq_hiera_large", 13),
    ],
)
def test_weights_of_another_row_are_named_in_the_error(name: str, other: str, unexpected: int) -> None:
    with pytest.raises(WeightsError) as caught:
        load_strictly(meta_model(name), meta_weights(other), key_map=key_map_of(CONFIGS[name]), where="x.pt")
    assert f"layout of {other!r}" in str(caught.value)
    assert f"{unexpected} unexpected" in str(caught.value)
    assert f"and {unexpected - 10} more" in str(caught.value)
