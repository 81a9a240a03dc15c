"""`segany instances` on files, with a small random model: what it writes is what the library finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from skimage.io import imread, imsave

from napari_segany.cli import automatic, main
from napari_segany.core.intensity import sample_window
from napari_segany.core.types import ModelCard
from napari_segany.io.label_store import LabelStore
from napari_segany.models.mask_decoder import DecoderConfig
from napari_segany.models.sam import Sam, SamConfig
from napari_segany.models.tiny_vit import TinyVitConfig
from napari_segany.models.unetr import UnetrConfig, UnetrDecoder
from napari_segany.predict.automatic import AutomaticSegmenter
from napari_segany.predict.distances import DistanceSettings
from napari_segany.predict.loading import Model
from napari_segany.predict.precision import place

NAME = "microsam_vit_t_lm"
WIDTH = 32
TRUNK = TinyVitConfig((8, 8, 16, 16), (1, 1, 1, 1), (2, 2, 2, 2), image_size=64, out_width=WIDTH, classes=2)
LOOSE = ["--centre", "1", "--boundary", "1", "--smoothing", "0", "--min-size", "9"]
SETTINGS = DistanceSettings(centre=1.0, boundary=1.0, smoothing=0.0, min_size=9)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Return a small random model, which finds something on about half of any image, and have it loaded."""
    config = SamConfig(
        NAME,
        TRUNK,
        image_size=64,
        width=WIDTH,
        resizing="pad",
        decoder=DecoderConfig(heads=2, mlp_width=16, iou_width=16),
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        network, decoder = Sam(config).eval(), UnetrDecoder(UnetrConfig(WIDTH, (32, 16, 8, 4))).eval()
        maps = decoder(network.encode(torch.randn(1, 3, 64, 64)).embedding)
        decoder.out_conv.bias[0] -= maps[:, 0].logit().median()
    made = Model(ModelCard(NAME, "3" * 64, finds_instances=True), network, place("cpu", "float32"), decoder)
    monkeypatch.setattr(automatic, "load_model", lambda name, **_: made)
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cells.png"
    imsave(path, np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8), check_contrast=False)
    return path


def found_by(model: Model, image: np.ndarray, *, stack: np.ndarray | None = None) -> np.ndarray:
    window = sample_window(image if stack is None else stack)
    return AutomaticSegmenter(model, settings=SETTINGS).labels(image, window=window)


def labels_in(path: Path) -> np.ndarray:
    with LabelStore.open(path, read_only=True) as store:
        return np.asarray(store.array[:])


def test_an_image_becomes_a_label_image(
    model: Model, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cells.ome.zarr"
    assert main(["instances", str(picture), "--model", NAME, "--out", str(out), *LOOSE]) == 0
    expected = found_by(model, imread(picture))
    assert expected.max() >= 1
    np.testing.assert_array_equal(labels_in(out), expected)
    assert f"{expected.max()} objects\nlabels: {out}" in capsys.readouterr().out
    with LabelStore.open(out, read_only=True) as store:
        (commit,) = store.records()
    assert commit.note["model"] == NAME
    assert commit.note["distances"]["min_size"] == 9
    assert commit.note["precision"] == "cpu, float32"


def test_a_stack_becomes_a_tiff_with_every_object_under_its_own_id(model: Model, tmp_path: Path) -> None:
    path, out = tmp_path / "stack.ome.tif", tmp_path / "labels.tif"
    stack = np.random.default_rng(1).integers(0, 4000, (3, 40, 50), dtype=np.uint16)
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TYX"})
    words = ["instances", str(path), "--model", NAME, *LOOSE, "--out"]
    assert main([*words, str(out)]) == 0
    labels = tifffile.imread(out)
    assert (labels.dtype, labels.shape) == (np.uint32, stack.shape)
    before = 0
    for plane, image in zip(labels, stack, strict=True):
        expected = found_by(model, image, stack=stack)
        np.testing.assert_array_equal(plane, np.where(expected > 0, expected + before, 0))
        before += int(expected.max())
    one = tmp_path / "one.ome.zarr"
    assert main([*words, str(one), "--plane", "T=1"]) == 0
    np.testing.assert_array_equal(labels_in(one)[1] > 0, labels[1] > 0)
    assert not labels_in(one)[[0, 2]].any()


def test_settings_that_are_not_given_are_the_models_own(picture: Path, tmp_path: Path) -> None:
    task = automatic.AutomaticTask(
        picture, tmp_path / "a.tif", "microsam_vit_b_lm", settings={"boundary": 0.3}
    )
    assert task.settings_for("microsam_vit_b_lm") == DistanceSettings(
        centre=0.4, boundary=0.3, smoothing=2.0, min_size=100
    )


@pytest.mark.usefixtures("model")
def test_labels_are_replaced_only_when_asked(picture: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "cells.tif", tmp_path / "cells.ome.zarr"):
        words = ["instances", str(picture), "--model", NAME, "--out", str(out)]
        assert main(words) == 0
        assert main(words) == 2
        assert main([*words, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--model sam2-nano", "microsam_vit_b_lm"),
        ("--centre 0", "centre is a threshold above 0"),
        ("--smoothing -1", "smoothing is a spread"),
        ("--min-size -1", "min_size is a number of pixels"),
        ("--plane T=2", "axis 'T'"),
        ("--channel 3", "channel"),
        ("--window 9", "low,high"),
    ],
)
@pytest.mark.usefixtures("no_loading")
def test_what_cannot_be_used_is_one_line(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    out = tmp_path / "cells.tif"
    assert main(["instances", str(picture), "--out", str(out), *words.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not out.exists()


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command fail that gets as far as loading a model."""
    monkeypatch.delattr(automatic, "load_model")
