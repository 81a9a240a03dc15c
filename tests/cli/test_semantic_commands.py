"""Levels, names and objects without prompts on the command line, with the bundled semantic-nano."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave

from napari_segany.cli import main
from napari_segany.io.label_store import LabelStore
from napari_segany.train.scenes import render_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Return a picture of nuclei and their flat labels."""
    made = render_scene(11, kind="histology", size=(160, 160))
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    imsave(path, made.image.astype(np.uint8), check_contrast=False)
    return path, made.labels


def labels_and_notes(path: Path) -> tuple[np.ndarray, list[dict[str, object]]]:
    with LabelStore.open(path, read_only=True) as store:
        return np.asarray(store.array[:]), [dict(commit.note) for commit in store.records()]


def inside(labels: np.ndarray) -> str:
    rows, cols = np.nonzero(labels == np.bincount(labels[labels > 0]).argmax())
    middle = np.argmin((rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2)
    return f"{rows[middle]},{cols[middle]}"


@pytest.mark.parametrize("model", ["semantic-nano", "sam2-nano"])
def test_a_coarser_level_is_never_smaller(
    model: str, scene: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    areas = []
    for level in (1, 3, 6):
        out = tmp_path / f"level{level}.ome.zarr"
        given = ["--points", inside(scene[1]), "--level", str(level), "--model", model, "--out", str(out)]
        assert main(["segment", str(scene[0]), *given]) == 0
        labels, notes = labels_and_notes(out)
        areas.append(int((labels > 0).sum()))
        assert notes[0]["chosen_level"] == level
    assert areas == sorted(areas)
    assert areas[0] > 0


def test_objects_are_told_apart_by_the_names_given(
    scene: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "named.ome.zarr"
    given = ["--points", inside(scene[1]), "--classes", "nucleus, gland", "--out", str(out)]
    assert main(["segment", str(scene[0]), *given, "--model", "semantic-nano", "--level", "2"]) == 0
    _, notes = labels_and_notes(out)
    assert notes[0]["class"] in ("nucleus", "gland", "")
    said = capsys.readouterr().out
    assert (f", {notes[0]['class']}" in said) == bool(notes[0]["class"])


def test_names_are_refused_by_models_without_words(
    scene: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "none.ome.zarr"
    given = ["--points", "10,10", "--classes", "cell", "--model", "sam2-nano", "--out", str(out)]
    assert main(["segment", str(scene[0]), *given]) == 2
    assert "knows no words" in capsys.readouterr().err
    assert not out.exists()


def test_nuclei_are_found_by_name_and_their_names_are_kept(
    scene: tuple[Path, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nuclei.ome.zarr"
    given = ["--model", "semantic-nano", "--classes", "nucleus", "--out", str(out)]
    assert main(["instances", str(scene[0]), *given]) == 0
    labels, notes = labels_and_notes(out)
    truth = scene[1] > 0
    assert labels.max() >= 1
    assert (truth & (labels > 0)).sum() >= 0.5 * truth.sum()
    told = notes[0]["objects"]
    assert isinstance(told, list)
    assert {row["class"] for row in told} == {"nucleus"}
    assert {row["label"] for row in told} == set(range(1, int(labels.max()) + 1))


def test_any_model_finds_objects_at_levels(scene: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    out = tmp_path / "everything.tif"
    assert (
        main(["instances", str(scene[0]), "--model", "sam2-nano", "--out", str(out)]) == 2
    )  # no way of its own
    assert not out.exists()
    assert main(["instances", str(scene[0]), "--model", "sam2-nano", "--levels", "9", "--out", str(out)]) == 2
    assert main(["instances", str(scene[0]), "--levels", "a", "--out", str(out)]) == 2


def test_nested_evaluation_as_json_and_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "--nested", "--model", "semantic-nano", "--scenes", "2"]
    assert main([*given, "--json", "--against", "sam2-nano"]) == 0
    both = json.loads(capsys.readouterr().out)
    own, other = both["model"], both["against"]
    assert own["scenes"] == other["scenes"] == 2
    assert own["clicks"] == other["clicks"] > 0
    assert 0 < own["nested"] <= 1
    assert own["without_prompts"]["truths"] > 0
    assert "without_prompts" not in other
    assert main(given) == 0
    table = capsys.readouterr().out
    assert f"{own['nested']:.3f}" in table
    assert "without prompts: " in table
    assert main([*given, "--video"]) == 2
