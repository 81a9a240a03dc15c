"""Semantic-SAM's files as they are released: downloaded or copied, told apart, and loaded with every tensor once."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from file_server import Server
from tests.golden.case import CASES, Case, read_case
from tests.golden.semantic import config_from_case, model_of

from napari_segany.core.errors import WeightsError
from napari_segany.models import reading
from napari_segany.models.build import CONFIGS, key_map_of
from napari_segany.models.download import find_weights
from napari_segany.models.registry import Layout, ModelSpec, list_models, spec_of
from napari_segany.models.semantic_sam import SemanticSam
from napari_segany.models.weights import load_strictly, read_weights
from napari_segany.predict.loading import load_model

NAME = "semantic_sam_swinT"
PATCHES = "backbone.patch_embed.proj.weight"

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def case() -> Case:
    return read_case(CASES / "semantic_tiny")


@pytest.fixture
def small(case: Case, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """Return the row as if the released model were as small as the golden one."""
    layout = Layout(len(case.weights), ((PATCHES, (8, 3, 4, 4)),))
    spec = replace(spec_of(NAME), layout=layout)
    others = [one for one in list_models() if one.name != NAME]
    monkeypatch.setattr(reading, "list_models", lambda: [*others, spec])
    monkeypatch.setitem(CONFIGS, NAME, config_from_case(case.description))
    return spec


def released(case: Case, *, prefix: str = "") -> bytes:
    """Return a file as training code writes it, with its losses and more beside the model."""
    assert all(key.startswith("model.") for key in case.weights)
    weights = case.weights | {"model.criterion.empty_weight": torch.ones(3)}
    stream = io.BytesIO()
    torch.save(
        {"model": {f"{prefix}{key}": tensor for key, tensor in weights.items()}, "iteration": 7}, stream
    )
    return stream.getvalue()


def assert_loaded(model: torch.nn.Module, case: Case) -> None:
    expected = model_of(case).state_dict()
    ours = model.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[key].to(tensor.dtype), tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_file_loads_by_its_path(small: ModelSpec, case: Case, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "swint_only_sam_many2many.pth"
    path.write_bytes(released(case, prefix=prefix))
    model = load_model(path, device="cpu", precision="float32")
    assert model.card.name == NAME
    assert not CONFIGS[NAME].has_words
    assert_loaded(model.network, case)


def test_a_released_file_is_downloaded_and_converted(
    small: ModelSpec, case: Case, server: Server, row: Callable[..., ModelSpec]
) -> None:
    server.content = released(case)
    path = find_weights(row(layout=small.layout, sha256=None, md5=None, size_bytes=None))
    assert path.suffix == ".safetensors"
    weights = read_weights(path)
    assert weights.keys() == {key.removeprefix("model.") for key in case.weights}
    config = config_from_case(case.description)
    with torch.device("meta"):
        model = SemanticSam(config)
    load_strictly(model, weights, key_map=key_map_of(config), where=path)
    assert_loaded(model, case)


def test_a_file_without_one_of_the_tensors_is_refused(small: ModelSpec, case: Case, tmp_path: Path) -> None:
    weights = dict(case.weights)
    gone = "model.sem_seg_head.predictor.mask_tokens.weight"
    weights["model.other"] = weights.pop(gone)  # as many keys as before
    torch.save(weights, tmp_path / "swint.pth")
    with pytest.raises(WeightsError, match=r"1 missing: query_decoder\.mask_tokens\.weight"):
        load_model(tmp_path / "swint.pth", device="cpu")
