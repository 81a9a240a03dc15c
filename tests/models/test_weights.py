"""Weights files: what can be read is read exactly, what cannot is refused; nothing half-loads."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from napari_segany.core.errors import WeightsError
from napari_segany.models.weights import (
    load_strictly,
    read_metadata,
    read_weights,
    sha256_of,
    write_packed,
)


def small_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "layer.weight": torch.randn(6, 5, generator=generator),
        "layer.bias": torch.randn(6, generator=generator),
        "steps": torch.tensor(7),
    }


class Small(nn.Module):
    """A module that `small_weights` fit."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 6)
        self.register_buffer("steps", torch.tensor(0))


def as_safetensors(path: Path) -> Path:
    save_file(small_weights(), path, metadata={"model": "small"})
    return path


def as_pickle(path: Path) -> Path:
    torch.save({"model": small_weights()}, path)
    return path


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


@pytest.mark.parametrize(
    "wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"state_dict": w, "epoch": 3}]
)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_state_dicts_are_read_bare_or_wrapped(tmp_path: Path, wrap: Callable, is_zip: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save(wrap(small_weights()), path, _use_new_zipfile_serialization=is_zip)
    assert_same(read_weights(path), small_weights())
    assert read_metadata(path) == {}


def test_safetensors_are_read_with_their_metadata(tmp_path: Path) -> None:
    path = as_safetensors(tmp_path / "weights.safetensors")
    assert_same(read_weights(path), small_weights())
    assert read_metadata(path) == {"model": "small"}


def test_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    assert_same(read_weights(as_safetensors(tmp_path / "weights.pt")), small_weights())
    assert_same(read_weights(as_pickle(tmp_path / "weights.safetensors")), small_weights())


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path, is_zip: bool) -> None:
    path, proof = tmp_path / "bomb.pt", tmp_path / "it-ran"
    torch.save(
        {"model": small_weights(), "extra": Bomb(f"touch {proof}")},
        path,
        _use_new_zipfile_serialization=is_zip,
    )
    with pytest.raises(WeightsError, match=r"bomb\.pt is refused.*safetensors"):
        read_weights(path)
    assert not proof.exists()


def test_a_plain_pickle_bomb_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "bomb.pth", tmp_path / "it-ran"
    path.write_bytes(pickle.dumps(Bomb(f"touch {proof}"), protocol=2))
    with pytest.raises(WeightsError, match=r"bomb\.pth"):
        read_weights(path)
    assert not proof.exists()


def test_an_archive_that_would_grow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "grows.pt"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(WeightsError, match="would grow to 50000000 bytes"):
        read_weights(path)


def test_a_tensor_larger_than_its_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pt"
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)
    with pytest.raises(WeightsError, match="claims shape"):
        read_weights(path)


@pytest.mark.parametrize("write", [as_safetensors, as_pickle])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    whole = write(tmp_path / "whole").read_bytes()
    cut = tmp_path / "cut"
    for size in (1, 4, 9, 40, len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="cut"):
            read_weights(cut)


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt"])
def test_random_bytes_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(WeightsError, match=name):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n  <HTML><head>Sign in</head></HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (b"hello, world", "no weights file"),
    ],
)
def test_files_that_are_no_weights_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=says) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        read_weights(tmp_path / "gone.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model": {"a": torch.zeros(2), "b": 3.0}}, "a float under 'b'"),
        ({"model": {"a": torch.zeros(2), 5: torch.zeros(2)}}, "under 5"),
        ([torch.zeros(2)], "a list"),
        (torch.zeros(2), "a Tensor"),
        ({}, "holds nothing"),
        ({"a": torch.eye(3).to_sparse()}, "sparse"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "complex"),
    ],
)
def test_pickles_of_other_things_are_refused(tmp_path: Path, content: object, says: str) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=says):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    weights = small_weights()
    weights["layer.weight"] = weights["layer.weight"].to(dtype)
    weights["layer.weight"][3, 2] = value
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=r"'layer\.weight' holds NaN or infinity"):
        read_weights(tmp_path / "bad.safetensors")


def test_variances_below_zero_are_refused(tmp_path: Path) -> None:
    weights = small_weights() | {"norm.running_var": torch.tensor([0.0, 1.0])}
    save_file(weights, tmp_path / "good.safetensors")
    assert "norm.running_var" in read_weights(tmp_path / "good.safetensors")
    weights["norm.running_var"][1] = -0.5
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(WeightsError, match=r"bad\.safetensors: 'norm\.running_var' holds -0\.5"):
        read_weights(tmp_path / "bad.safetensors")


def test_weights_load_with_their_values_and_keep_the_module_s_type() -> None:
    module = Small()
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in small_weights().items()
    }
    load_strictly(module, halves, where="here")
    assert module.layer.weight.dtype == torch.float32
    assert torch.equal(module.layer.bias, halves["layer.bias"].float())
    assert int(module.steps) == 7


def test_a_module_on_the_meta_device_takes_the_weights() -> None:
    with torch.device("meta"):
        module = Small()
    load_strictly(module, {key: value.double() for key, value in small_weights().items()}, where="here")
    assert isinstance(module.layer.weight, nn.Parameter)
    assert module.layer.weight.requires_grad
    assert torch.equal(module.layer.weight, small_weights()["layer.weight"])


def test_a_key_map_renames_and_drops() -> None:
    module = Small()
    theirs = {f"net.{key}": value for key, value in small_weights().items()} | {"optimiser": torch.zeros(1)}
    load_strictly(
        module,
        theirs,
        key_map=lambda key: key.removeprefix("net.") if key.startswith("net.") else None,
        where="x",
    )
    assert torch.equal(module.layer.weight, small_weights()["layer.weight"])
    with pytest.raises(WeightsError, match=r"stand for 'layer\.weight'"):
        load_strictly(module, theirs, key_map=lambda key: "layer.weight", where="x")


def test_what_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    module = Small()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    weights = small_weights()
    weights["layer.weight"] = weights["layer.weight"].T.contiguous()
    weights["extra"] = weights.pop("steps")
    with pytest.raises(WeightsError) as caught:
        load_strictly(module, weights, where="other.pt")
    message = str(caught.value)
    assert message.startswith("other.pt does not fit Small")
    for part in ("1 missing: steps", "1 unexpected: extra", "layer.weight (5, 6) instead of (6, 5)"):
        assert part in message
    assert_same(dict(module.state_dict()), before)


def test_a_hash_is_read_once_and_again_when_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    first = sha256_of(path)
    assert first == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"abcd")
    assert sha256_of(path) != first


def test_a_packed_file_that_was_tampered_with_is_refused(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "p.safetensors", {"w": torch.randn(64, 64)}, metadata={})
    content = path.read_bytes()
    header_size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + header_size].replace(b'"w":', b'"v":')
    path.write_bytes(content[:8] + header + content[8 + header_size :])
    with pytest.raises(WeightsError, match="scale without its tensor"):
        read_weights(path)
