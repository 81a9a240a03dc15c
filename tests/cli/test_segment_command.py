"""`segany segment` on files, with a predictor that answers clicks with discs and boxes with their content."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.io import imread, imsave

from napari_segany.cli import main, task
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.types import (
    AnyArray,
    FeaturesLike,
    MaskPrediction,
    ModelCard,
    PackedFeatures,
    Prompt,
)
from napari_segany.io.label_store import LabelStore

RADIUS = 5.0


@dataclass(frozen=True)
class _Features:
    image: AnyArray
    window: Window

    @property
    def image_shape(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


class DiscPredictor:
    """Answers a box with its content, adds a disc for a positive click, takes one away for a negative one."""

    def __init__(self) -> None:
        self.seen: list[_Features] = []
        self.fine: list[bool | None] = []

    @property
    def card(self) -> ModelCard:
        return ModelCard("disc", "0" * 64)

    def embed(self, image: AnyArray, *, window: Window | None = None) -> _Features:
        self.seen.append(_Features(image, window or sample_window(image)))
        return self.seen[-1]

    def predict(
        self, features: FeaturesLike, prompt: Prompt, *, multimask: bool = True, fine: bool | None = None
    ) -> MaskPrediction:
        self.fine.append(fine)
        rows, cols = np.indices(features.image_shape)
        mask = np.zeros(features.image_shape, dtype=bool)
        if prompt.box is not None:
            box = prompt.box
            mask |= (rows >= box.row0) & (rows < box.row1) & (cols >= box.col0) & (cols < box.col1)
        if prompt.points is not None:
            for (row, col), positive in zip(prompt.points.coords, prompt.points.positive, strict=True):
                disc = np.hypot(rows - row, cols - col) <= RADIUS
                mask = mask | disc if positive else mask & ~disc
        logits = np.where(mask, 1.0, -1.0).astype(np.float32)
        return MaskPrediction(mask[None], np.array([0.5], dtype=np.float32), logits[None], np.array([4]))

    def predict_many(
        self,
        features: FeaturesLike,
        prompts: Sequence[Prompt],
        *,
        multimask: bool = True,
        fine: bool | None = None,
    ) -> list[MaskPrediction]:
        return [self.predict(features, prompt, multimask=multimask, fine=fine) for prompt in prompts]

    def pack(self, features: _Features) -> PackedFeatures:
        return {"image": features.image}, {"window": [features.window.low, features.window.high]}

    def unpack(self, arrays: dict[str, AnyArray], description: dict[str, object]) -> _Features:
        return _Features(arrays["image"], Window(*description["window"]))  # type: ignore[misc]


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> DiscPredictor:
    made = DiscPredictor()
    monkeypatch.setattr(task, "_predictor", lambda _: made)
    return made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cells.png"
    imsave(path, np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8), check_contrast=False)
    return path


def _labels(path: Path) -> np.ndarray:
    with LabelStore.open(path, read_only=True) as store:
        return np.asarray(store.array[:])


@pytest.mark.usefixtures("predictor")
def test_inline_clicks(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, overlay = tmp_path / "cells.ome.zarr", tmp_path / "overlay.png"
    words = [
        "segment",
        str(picture),
        "--points",
        "20,30 20,38,-; 40,60",
        "--out",
        str(out),
        "--overlay",
        str(overlay),
    ]
    assert main(words) == 0
    labels = _labels(out)
    assert labels.shape == (60, 80)
    assert labels[20, 30] == 1
    assert labels[20, 35] == 0  # the negative click took it away
    assert labels[40, 60] == 2
    assert set(np.unique(labels)) == {0, 1, 2}
    drawn = imread(overlay)
    assert drawn.shape == (60, 80, 3)
    assert (drawn[40, 60] != imread(picture)[40, 60]).any()
    printed = capsys.readouterr().out
    assert f"object 1: {int((labels == 1).sum())} pixels" in printed
    assert str(out) in printed


@pytest.mark.usefixtures("predictor")
def test_provenance_is_written(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.ome.zarr"
    assert main(["segment", str(picture), "--points", "20,30", "--out", str(out), "--window", "10,200"]) == 0
    with LabelStore.open(out, read_only=True) as store:
        (commit,) = store.records()
        assert store.provenance["source"]["path"] == str(picture)
    assert commit.note["model"] == "disc"
    assert commit.note["window"] == [10.0, 200.0]
    assert commit.note["rounds"][0]["points"] == [[20.0, 30.0, True]]


@pytest.mark.usefixtures("predictor")
def test_boxes_alone_and_with_clicks(picture: Path, tmp_path: Path) -> None:
    alone, both = tmp_path / "alone.ome.zarr", tmp_path / "both.ome.zarr"
    boxes = "5,5,15,25; 30,40,50,70"
    assert main(["segment", str(picture), "--boxes", boxes, "--out", str(alone)]) == 0
    labels = _labels(alone)
    assert (labels[5:15, 5:25] == 1).all()
    assert (labels[30:50, 40:70] == 2).all()
    assert (labels > 0).sum() == 200 + 600
    clicks = "10,10 10,20,-; 40,50"
    assert main(["segment", str(picture), "--boxes", boxes, "--points", clicks, "--out", str(both)]) == 0
    assert (labels[10, 20], _labels(both)[10, 20]) == (1, 0)


def test_a_stack_needs_a_plane_and_uses_one_window(predictor: DiscPredictor, tmp_path: Path) -> None:
    stack = np.arange(4 * 3 * 40 * 50, dtype=np.uint16).reshape(4, 3, 40, 50)
    path, out = tmp_path / "stack.ome.tif", tmp_path / "stack.ome.zarr"
    tifffile.imwrite(path, stack, ome=True, metadata={"axes": "TZYX"})
    words = ["segment", str(path), "--points", "20,30", "--out", str(out)]
    assert main(words) == 2
    assert not out.exists()
    assert main([*words, "--plane", "T=2,Z=1"]) == 0
    labels = _labels(out)
    assert labels.shape == (4, 3, 40, 50)
    assert labels[2, 1, 20, 30] == 1
    assert (labels > 0).any(axis=(2, 3)).sum() == 1
    (seen,) = predictor.seen
    np.testing.assert_array_equal(seen.image, stack[2, 1])
    assert seen.window.low < 2000  # of the whole stack, not of this plane, which starts at 14000
    assert seen.window.high > 22000


def test_one_channel(predictor: DiscPredictor, tmp_path: Path) -> None:
    path = tmp_path / "channels.ome.tif"
    data = np.stack([np.full((30, 30), value, dtype=np.uint16) for value in (7, 500)])
    data[:, 0, 0] += 1
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "CYX"})
    words = ["segment", str(path), "--points", "10,10", "--channel", "1"]
    assert main([*words, "--out", str(tmp_path / "a.ome.zarr")]) == 0
    assert predictor.seen[0].image.shape == (30, 30)
    assert predictor.seen[0].image[5, 5] == 500
    assert main([*words[:-1], "2", "--out", str(tmp_path / "b.ome.zarr")]) == 2


@pytest.mark.usefixtures("predictor")
def test_prompt_file_keeps_its_ids(picture: Path, tmp_path: Path) -> None:
    table = tmp_path / "clicks.csv"
    table.write_text("index,axis-0,axis-1,object_id,positive\n0,20,30,7,True\n1,40,60,12,True\n")
    out = tmp_path / "cells.ome.zarr"
    assert main(["segment", str(picture), "--points", str(table), "--out", str(out)]) == 0
    labels = _labels(out)
    assert (labels[20, 30], labels[40, 60]) == (7, 12)


@pytest.mark.usefixtures("predictor")
def test_several_sources_are_counted_anew(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.ome.zarr"
    assert main(["segment", str(picture), "--points", "20,30", "--points", "40,60", "--out", str(out)]) == 0
    assert (_labels(out)[20, 30], _labels(out)[40, 60]) == (1, 2)


@pytest.mark.usefixtures("predictor")
def test_prompt_file_without_planes_goes_on_the_named_plane(tmp_path: Path) -> None:
    path, out, table = tmp_path / "t.ome.tif", tmp_path / "t.ome.zarr", tmp_path / "clicks.csv"
    tifffile.imwrite(path, np.zeros((3, 40, 50), np.uint8), ome=True, metadata={"axes": "TYX"})
    table.write_text("index,axis-0,axis-1\n0,20,30\n")
    words = ["segment", str(path), "--points", str(table), "--out", str(out)]
    assert main(words) == 2
    assert main([*words, "--plane", "T=1"]) == 0
    assert _labels(out)[1, 20, 30] == 1


@pytest.mark.usefixtures("predictor")
def test_an_object_that_adds_nothing_is_told(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cells.ome.zarr"
    assert main(["segment", str(picture), "--points", "20,30; 20,30; 40,60", "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert "object 2" in captured.err
    assert "object 3: " in captured.out
    assert set(np.unique(_labels(out))) == {0, 1, 3}


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--points", "200,30"], "outside the image of 60 x 80"),
        (["--boxes", "0,0,10,100"], "outside the image of 60 x 80"),
        (["--points", "20;30"], "row,col"),
        (["--points", "20,30", "--window", "9"], "low,high"),
        (["--points", "20,30", "--plane", "2"], "T=0,Z=12"),
        (["--points", "20,30", "--plane", "T=2"], "axis 'T'"),
        (["--points", "1,2; 3,4", "--boxes", "0,0,9,9"], "2 clicked objects and 1 boxes"),
        (["--points", "missing.csv"], "missing.csv"),
        ([], "nothing to segment"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    out = tmp_path / "cells.ome.zarr"
    assert main(["segment", str(picture), "--out", str(out), *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert not out.exists()


@pytest.mark.usefixtures("predictor")
def test_labels_are_replaced_only_when_asked(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.ome.zarr"
    words = ["segment", str(picture), "--out", str(out), "--points"]
    assert main([*words, "20,30"]) == 0
    assert main([*words, "40,60"]) == 2
    assert _labels(out)[20, 30] == 1
    assert main([*words, "40,60", "--overwrite"]) == 0
    assert _labels(out)[20, 30] == 0


def test_a_prediction_that_fails_is_one_line(
    predictor: DiscPredictor,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from napari_segany.core.errors import OutOfMemoryError

    def fail(*_: object, **__: object) -> None:
        raise OutOfMemoryError("too large; use a smaller model")

    monkeypatch.setattr(predictor, "predict", fail)
    assert main(["segment", str(picture), "--points", "20,30", "--out", str(tmp_path / "a.ome.zarr")]) == 2
    assert capsys.readouterr().err == "error: too large; use a smaller model\n"


def test_source_is_json_safe(predictor: DiscPredictor, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.ome.zarr"
    assert main(["segment", str(picture), "--points", "20,30", "--out", str(out)]) == 0
    with LabelStore.open(out, read_only=True) as store:
        source = store.provenance["source"]
    assert json.loads(json.dumps(source)) == source
    assert source["shape"] == [60, 80]
    assert len(predictor.seen) == 1


@pytest.mark.parametrize(
    ("words", "asked"),
    [([], None), (["--fine"], True), (["--no-fine"], False)],
    ids=["left out", "on", "off"],
)
def test_fine_boundaries_are_asked_for_and_noted(
    predictor: DiscPredictor, picture: Path, tmp_path: Path, words: list[str], asked: bool | None
) -> None:
    out = tmp_path / "cells.ome.zarr"
    given = ["segment", str(picture), "--points", "20,30", "--model", "sam_hq_vit_tiny", "--out", str(out)]
    assert main([*given, *words]) == 0
    assert predictor.fine == [asked]
    with LabelStore.open(out, read_only=True) as store:
        assert store.records()[0].note["fine"] is False  # this predictor draws none, whatever is asked


@pytest.mark.usefixtures("predictor")
def test_fine_boundaries_of_a_model_without_them_are_refused_at_once(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cells.ome.zarr"
    given = ["segment", str(picture), "--points", "20,30", "--model", "sam2.1_hiera_tiny", "--fine"]
    assert main([*given, "--out", str(out)]) == 2
    assert "sam2.1_hiera_tiny draws no fine boundaries" in capsys.readouterr().err
    assert not out.exists()


def test_features_are_kept_for_the_next_run_and_cleared(
    predictor: DiscPredictor,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SEGANY_CACHE", str(tmp_path / "cache"))
    given = ["segment", str(picture), "--points", "20,30", "--overwrite", "--out"]
    assert main([*given, str(tmp_path / "a.ome.zarr")]) == 0
    assert not (tmp_path / "cache" / "features").exists()
    for name in ("b", "c"):
        assert main([*given, str(tmp_path / f"{name}.ome.zarr"), "--features-cache"]) == 0
    assert len(predictor.seen) == 2  # the third run found what the second kept
    np.testing.assert_array_equal(_labels(tmp_path / "a.ome.zarr"), _labels(tmp_path / "c.ome.zarr"))
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 1
    main(["doctor", "--clear-features"])
    printed = capsys.readouterr().out
    assert "removed 0.0 MB of features" in printed and "0.0 MB of 0 images" in printed
    assert list((tmp_path / "cache" / "features").iterdir()) == []
