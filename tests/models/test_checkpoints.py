"""Released, fine-tuned and hostile checkpoints: told apart by layout, read whatever wraps them, or refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from file_server import LAYOUT, Server
from safetensors.torch import save_file
from torch import Tensor

from napari_segany.core.errors import WeightsError
from napari_segany.models.download import find_decoder, find_weights
from napari_segany.models.registry import ModelSpec, RemoteFile, list_models, spec_of
from napari_segany.models.rows import DECODER_LAYOUT
from napari_segany.models.weights import identify, read_weights, split_decoder

LAYOUTS = Path(__file__).parents[1] / "golden" / "layouts"
RELEASED = sorted(path.stem for path in LAYOUTS.glob("*.json") if "decoder" not in path.stem)
DECODERS = sorted(path.stem for path in LAYOUTS.glob("microsam_ais_decoder*.json"))


def meta_weights(stem: str) -> dict[str, Tensor]:
    """Return a released state dict without its values."""
    keys = json.loads((LAYOUTS / f"{stem}.json").read_text())["keys"]
    shapes = {key: row["shape"] if isinstance(row, dict) else row for key, row in keys.items()}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as `read_weights` gives them; Semantic-SAM's files have "model." before every key."""
    return {key.removeprefix("model."): tensor for key, tensor in weights.items()}


def row_name(stem: str) -> str:
    return "mobile_sam" if stem == "mobile_sam_vit_t" else stem


@pytest.mark.parametrize("stem", RELEASED)
def test_a_released_layout_is_told_from_every_other(stem: str) -> None:
    weights, name = meta_weights(stem), row_name(stem)
    spec = spec_of(name)
    assert identify(weights) == name
    assert spec.layout.n_keys == len(weights)
    buffers = ("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix", "position_index")
    shared = json.loads((LAYOUTS / f"{stem}.json").read_text()).get(
        "shared", {}
    )  # told again under other names
    count = sum(t.numel() for key, t in weights.items() if not key.endswith(buffers) and key not in shared)
    assert count == spec.n_parameters
    assert ("hf_token" in " ".join(weights)) == spec.has_fine
    shapes = {key: tuple(tensor.shape) for key, tensor in without_prefix(weights).items()}
    fitting = {(one.version, one.trunk) for one in list_models() if one.layout.fits(shapes)}
    assert fitting == {(spec.version, spec.trunk)}


def test_every_kind_of_row_has_a_layout_on_record() -> None:
    kinds = {(spec.version, spec.trunk) for spec in list_models() if not spec.is_bundled}
    on_record = {(spec_of(row_name(stem)).version, spec_of(row_name(stem)).trunk) for stem in RELEASED}
    assert kinds == on_record


@pytest.mark.parametrize("stem", DECODERS)
def test_a_decoder_is_no_model_but_has_its_own_layout(stem: str) -> None:
    weights = meta_weights(stem)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.items()}
    assert identify(weights) is None
    assert DECODER_LAYOUT.fits(shapes)
    assert split_decoder(weights) == (weights, None)


def test_a_model_with_its_decoder_is_the_model() -> None:
    model, decoder = meta_weights("sam_vit_b"), meta_weights("microsam_ais_decoder")
    both = model | {f"decoder.{key}": tensor for key, tensor in decoder.items()}
    assert identify(both) == "sam_vit_b"
    parts = split_decoder(both)
    assert parts == (model, decoder)


def real_weights() -> dict[str, Tensor]:
    """Return the whole state dict of a released model, with small numbers in it."""
    return {
        key: torch.zeros(tensor.shape, dtype=torch.float16)
        for key, tensor in meta_weights("mobile_sam_vit_t").items()
    }


def small_model() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image_encoder.weight": torch.randn(6, 5, generator=generator),
        "image_encoder.bias": torch.randn(6, generator=generator),
    }


def small_decoder() -> dict[str, Tensor]:
    return {"decoder.blocks.weight": torch.arange(6.0), "out_conv.weight": torch.ones(3)}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], tensor) for key, tensor in theirs.items())


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in weights.items()}


@pytest.mark.parametrize("prefix", ["module.", "model.", "sam.", "module.model.", "_orig_mod.module."])
def test_prefixes_of_training_code_are_taken_off_a_known_model(tmp_path: Path, prefix: str) -> None:
    weights = real_weights()
    torch.save({"state_dict": under(prefix, weights), "epoch": 3}, tmp_path / "own.pt")
    save_file(under(prefix, weights), tmp_path / "own.safetensors")
    for path in tmp_path.iterdir():
        read = read_weights(path)
        assert read.keys() == weights.keys()
        assert identify(read) == "mobile_sam"


def test_prefixes_stay_where_they_make_nothing_known(tmp_path: Path) -> None:
    partial, mixed = real_weights(), under("module.", real_weights())
    del partial["image_encoder.norm_head.weight"]
    mixed["other.weight"] = torch.ones(1)
    for weights in (under("module.", small_model()), under("module.", partial), mixed):
        torch.save(weights, tmp_path / "own.pt")
        assert read_weights(tmp_path / "own.pt").keys() == weights.keys()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_training_s_losses_are_left_out_of_semantic_sam(tmp_path: Path, prefix: str) -> None:
    released = meta_weights("semantic_sam_swinT")
    weights = {key: torch.zeros(tensor.shape, dtype=torch.float16) for key, tensor in released.items()}
    losses = {
        "model.criterion.empty_weight": torch.ones(3),
        "model.criterion.empty_weight_part": torch.ones(2),
    }
    torch.save({"model": under(prefix, {**weights, **losses}), "iteration": 7}, tmp_path / "model_final.pth")
    read = read_weights(tmp_path / "model_final.pth")
    assert read.keys() == without_prefix(released).keys()
    assert identify(read) == "semantic_sam_swinT"


def test_losses_alone_stay_for_the_message(tmp_path: Path) -> None:
    save_file({"criterion.empty_weight": torch.ones(3)}, tmp_path / "odd.safetensors")
    assert list(read_weights(tmp_path / "odd.safetensors")) == ["criterion.empty_weight"]


@pytest.mark.parametrize("prefix", ["", "sam."])
@pytest.mark.parametrize("has_decoder", [True, False])
def test_micro_sam_s_files_give_model_and_decoder(tmp_path: Path, prefix: str, has_decoder: bool) -> None:
    content = {"model_state": OrderedDict(under(prefix, small_model())), "iteration": 10}
    if has_decoder:
        content["decoder_state"] = small_decoder()
    torch.save(content, tmp_path / "best.pt")
    model, decoder = split_decoder(read_weights(tmp_path / "best.pt"))
    assert_same(model, small_model())
    if has_decoder:
        assert decoder is not None
        assert_same(decoder, small_decoder())
    else:
        assert decoder is None


def test_a_decoder_alone_keeps_its_keys(tmp_path: Path) -> None:
    for content in (small_decoder(), {"decoder_state": small_decoder()}):
        torch.save(content, tmp_path / "decoder.pt")
        read = read_weights(tmp_path / "decoder.pt")
        assert_same(read, small_decoder())
        assert split_decoder(read)[1] is None


class Sampler:
    """A training's own object: with a state, attributes and a class that a pickle names."""

    def __init__(self) -> None:
        self.order = {"of": [1, 2, {3}], "path": Path("x")}


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class Counter(dict):
    """A container of the training's own, which a pickle fills item by item."""


def training_file(**more: object) -> dict[str, object]:
    """Return what torch_em writes: weights, the optimiser's state, and objects of the training."""
    wide = torch.arange(60.0).reshape(6, 10)
    return {
        "model_state": under("sam.", small_model()) | {"sam.image_encoder.view": wide[:, 2:7].t()},
        "decoder_state": OrderedDict(small_decoder()),
        "optimizer_state": {"state": {0: torch.ones(3)}},
        "init": {"train_dataset": Sampler(), "seen": Counter(a=1), "kind": Sampler},
        **more,
    }


def test_a_training_file_is_read_without_the_objects_in_it(tmp_path: Path) -> None:
    torch.save(training_file(), tmp_path / "best.pt")
    model, decoder = split_decoder(read_weights(tmp_path / "best.pt"))
    view = torch.arange(60.0).reshape(6, 10)[:, 2:7].t()
    assert_same(model, small_model() | {"image_encoder.view": view})
    assert decoder is not None
    assert_same(decoder, small_decoder())


@pytest.mark.parametrize("where", ["init", "optimizer_state", "model_state", "anything"])
def test_a_hostile_training_file_is_refused_and_does_not_run(tmp_path: Path, where: str) -> None:
    path, proof = tmp_path / "bomb.pt", tmp_path / "it-ran"
    content = training_file()
    inside = content.setdefault(where, {})
    assert isinstance(inside, dict)
    inside["sam.bomb"] = Bomb(f"touch {proof}")
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"bomb\.pt is refused"):
        read_weights(path)
    assert not proof.exists()


@pytest.mark.parametrize("value", [Sampler(), [1], None], ids=["object", "list", "none"])
def test_an_object_among_the_weights_of_a_training_file_is_refused(tmp_path: Path, value: object) -> None:
    content = training_file()
    content["decoder_state"]["odd"] = value
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"odd\.pt"):
        read_weights(tmp_path / "odd.pt")


def test_a_training_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    torch.save(training_file(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for size in range(1, len(whole), len(whole) // 40):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"cut\.pt"):
            read_weights(tmp_path / "cut.pt")


Row = Callable[..., ModelSpec]


def serve(server: Server, content: object) -> None:
    stream = io.BytesIO()
    torch.save(content, stream)
    server.content = stream.getvalue()


@pytest.mark.parametrize("is_training_file", [True, False])
def test_a_downloaded_pickle_bomb_does_not_run_and_leaves_nothing(
    server: Server, row: Row, own_cache: Path, tmp_path: Path, is_training_file: bool
) -> None:
    proof = tmp_path / "it-ran"
    bomb = {"extra": Bomb(f"touch {proof}")}
    serve(server, training_file(**bomb) if is_training_file else {"model": small_model(), **bomb})
    with pytest.raises(WeightsError, match=r"model\.pt is refused: it holds more than tensors"):
        find_weights(row())
    assert not proof.exists()
    assert list(own_cache.iterdir()) == []


def test_a_downloaded_model_of_another_family_is_named_and_leaves_nothing(
    server: Server, row: Row, own_cache: Path
) -> None:
    serve(server, real_weights())
    with pytest.raises(WeightsError, match="layout of 'mobile_sam'") as caught:
        find_weights(row())
    assert server.url in str(caught.value)
    assert list(own_cache.iterdir()) == []
    serve(server, small_model())
    with pytest.raises(WeightsError, match="2 tensors that fit no known model"):
        find_weights(row(layout=spec_of("mobile_sam").layout))
    assert list(own_cache.iterdir()) == []


def test_a_file_copied_by_hand_that_is_another_model_stays(server: Server, row: Row, own_cache: Path) -> None:
    serve(server, real_weights())
    own_cache.mkdir(parents=True)
    (own_cache / "model.pt").write_bytes(server.content)
    with pytest.raises(WeightsError, match="layout of 'mobile_sam'"):
        find_weights(row())
    assert [path.name for path in own_cache.iterdir()] == ["model.pt"]
    assert server.starts == []


@pytest.mark.usefixtures("own_cache")
def test_a_model_with_its_decoder_is_converted_with_both(server: Server, row: Row) -> None:
    model = {key: torch.ones(shape) for key, shape in LAYOUT.shapes}
    serve(server, {"model_state": under("sam.", model), "decoder_state": small_decoder()})
    path = find_weights(row())
    assert path.suffix == ".safetensors"
    read, decoder = split_decoder(read_weights(path))
    assert_same(read, model)
    assert decoder is not None
    assert_same(decoder, small_decoder())


@pytest.mark.usefixtures("own_cache")
def test_tensors_that_share_memory_are_converted(server: Server, row: Row) -> None:
    wide = torch.randn(768, 2048)
    weights = {"image_encoder.weight": wide[:, ::2], "image_encoder.bias": wide[:, 0]}
    serve(server, weights)
    path = find_weights(row())
    assert path.suffix == ".safetensors"
    assert_same(read_weights(path), weights)


@pytest.mark.usefixtures("own_cache")
def test_a_decoder_of_the_wrong_kind_is_refused(server: Server, row: Row, own_cache: Path) -> None:
    serve(server, small_decoder())
    digest = hashlib.md5(server.content).hexdigest()
    spec = replace(row(), decoder=RemoteFile("d.pt", server.url, DECODER_LAYOUT, md5=digest))
    with pytest.raises(WeightsError, match=r"d\.pt, from http.* is not the model"):
        find_decoder(spec)
    assert list(own_cache.iterdir()) == []
