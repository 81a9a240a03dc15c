"""`segany evaluate` on exported scenes, with a network that has learnt nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from napari_segany.cli import main
from napari_segany.models.sam2 import build_sam2


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


def test_evaluate_on_a_folder_of_another_form(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--model", str(weights), "--data", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "images/" in captured.err
