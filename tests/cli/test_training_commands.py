"""`segany train` and `segany evaluate`, on exported scenes, with a network that has learnt nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from napari_segany.cli import main
from napari_segany.models.sam2 import build_sam2
from napari_segany.predict.loading import load_model
from napari_segany.train.loop import BEST, CHECKPOINT, StepReport
from napari_segany.train.recipes import recipe_of
from napari_segany.train.stages import Recipe


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_file({key: value.contiguous() for key, value in build_sam2("sam2-nano").state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["scenes", "--count", "2", "--size", "64", "--seed", "1", "--out", str(folder)]) == 0
    return folder


def test_evaluate_prints_exactly_one_json_object(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model", str(weights), "--data", str(data), "--most-objects", "2", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    report = json.loads(printed)
    assert {
        "click1",
        "click3",
        "click5",
        "box",
        "best_of_3",
        "boundary_iou",
        "by_size",
        "by_modality",
    } <= set(report)
    assert report["model"] == "sam2-nano"
    assert report["images"] == 2
    assert 1 <= report["objects"] <= 4
    assert all(0 <= report[f"click{n}"] <= 1 for n in (1, 3, 5))
    assert sum(part["objects"] for part in report["by_size"].values()) == report["objects"]


def test_evaluate_as_a_table(weights: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", str(weights), "--data", str(data), "--most-objects", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["objects", "click1"]
    assert lines[1].startswith("sam2-nano, 2 images")


def test_evaluate_writes_a_page_with_two_models(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    words = ["evaluate", "--model", str(weights), "--report", str(page), "--parts", "scenes"]
    few = ["--scenes", "1", "--most-objects", "1"]
    assert main([*words, *few, "--against", str(weights), "--json"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert both["model"] == both["against"]
    assert both["model"]["parts"]["scenes"]["result"]["objects"] == 1
    assert len(list(page.glob("**/*.png"))) == 6
    assert main([*words, *few]) == 0  # known already
    printed = capsys.readouterr().out.split()
    assert Path(printed[1]).read_text().startswith("<!doctype html>")
    assert json.loads(Path(printed[3]).read_text()) == both["model"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--parts", "scenes"], "--report"),
        (["--report", "x", "--parts", "sound"], "sound"),
        (["--report", "x", "--parts", "images"], "labels/"),
        (["--report", "x", "--video"], "--parts"),
    ],
)
def test_parts_that_cannot_be_measured(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_evaluate_on_a_folder_of_another_form(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", str(weights), "--data", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "images/" in captured.err


def test_train_prints_a_table_and_makes_weights_that_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training itself is replaced (tests/train has it); what is done with its reports and its folder is real."""
    asked: dict[str, object] = {}

    def trained(recipe: Recipe, *, folder: Path, **options: object) -> Iterator[StepReport]:
        asked.update(options, steps=recipe.steps)
        torch.save(build_sam2(recipe.name).state_dict(), folder / BEST)
        reports = [
            StepReport(1, recipe.steps, 2.5, 1e-4, 30.0),
            StepReport(2, recipe.steps, 2.25, 5e-5, 90.0, {"click1": 0.5, "score": 0.4}),
        ]
        lines = [json.dumps(asdict(report)) for report in reports]
        (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
        yield from reports

    monkeypatch.setattr("napari_segany.train.run.run_training", trained)
    arguments = [
        "--steps",
        "30",
        "--every",
        "7",
        "--device",
        "cpu",
        "--weights",
        "w.safetensors",
        "--stage",
        "2",
    ]
    assert main(["train", "--out", str(tmp_path), *arguments]) == 0
    steps = recipe_of("sam2-nano").shortened(30).steps
    assert asked == {
        "data": None,
        "device": "cpu",
        "is_resumed": False,
        "weights": Path("w.safetensors"),
        "stage": 2,
        "every": 7,
        "steps": steps,
    }
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "loss", "rate", "minutes", "validation"]
    assert lines[1].split() == [f"1/{steps}", "2.5000", "1.00e-04", "0.5"]
    assert lines[2].split() == [
        f"2/{steps}",
        "2.2500",
        "5.00e-05",
        "1.5",
        "click1",
        "0.500",
        "score",
        "0.400",
    ]
    best = tmp_path / "sam2-nano.safetensors"
    assert str(best) in lines[3]
    assert load_model(best, device="cpu").card.name == "sam2-nano"


def test_train_does_not_overwrite_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"an earlier run")
    assert main(["train", "--out", str(tmp_path)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert (tmp_path / CHECKPOINT).read_bytes() == b"an earlier run"


def test_a_later_stage_needs_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(tmp_path / "run"), "--stage", "2"]) == 2
    assert "stage 2 goes on from weights" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_by_a_recipe_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "sam9", "--out", str(tmp_path / "run")]) == 2
    assert "sam2-nano" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_train_that_is_interrupted_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Iterator[StepReport]:
        yield StepReport(20, 100, 1.0, 1e-4, 60.0)
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_segany.train.run.run_training", interrupted)
    assert main(["train", "--out", str(tmp_path)]) == 130
    captured = capsys.readouterr()
    assert "20/100" in captured.out
    assert "--resume" in captured.err
