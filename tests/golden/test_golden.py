"""The copied golden cases pass, and the comparison catches what it should."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from . import sam2_image
from .__main__ import main
from .case import CASES, Case, compare, read_case

FOLDERS = sorted(CASES.iterdir())


@pytest.fixture(scope="module")
def tiny() -> Case:
    return read_case(CASES / "sam2_image_tiny")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_output_of_the_reference_is_reproduced(folder: Path) -> None:
    comparisons = list(compare(read_case(folder)))
    assert len(comparisons) >= 3
    assert [str(one) for one in comparisons if not one.passes] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_single_masks_are_chosen_by_the_same_rule(folder: Path) -> None:
    case = read_case(folder)
    if "token0_stable" not in case.description:
        pytest.skip("the case does not record which branch was taken")
    with torch.inference_mode():
        ours = sam2_image.outputs(case)
    for name, expected in case.description["token0_stable"].items():
        assert (ours[f"{name}/stability_of_token0"] >= 0.98).flatten().tolist() == expected, name


def test_a_disturbed_weight_is_caught(tiny: Case) -> None:
    weights = dict(tiny.weights)
    key = "sam_mask_decoder.iou_prediction_head.layers.2.bias"
    weights[key] = weights[key].float() + 0.01
    failed = {one.name for one in compare(replace(tiny, weights=weights)) if not one.passes}
    assert "point_multi/iou" in failed
    assert "image_embedding" not in failed


def test_a_flipped_pixel_far_from_the_border_is_caught(tiny: Case) -> None:
    logits = tiny.io["point_multi/mask_logits"]
    masks = tiny.io["point_multi/mask"].clone()
    masks.view(-1)[logits.abs().argmax()] ^= True
    case = replace(tiny, io=tiny.io | {"point_multi/mask": masks})
    assert [one.name for one in compare(case) if not one.passes and one.name.startswith("point_multi")] == [
        "point_multi/mask"
    ]


def test_an_output_that_nobody_computes_fails(tiny: Case) -> None:
    case = replace(tiny, io=tiny.io | {"point_multi/unheard_of": torch.zeros(1)})
    (missing,) = (one for one in compare(case) if one.name == "point_multi/unheard_of")
    assert not missing.passes
    assert "not computed" in str(missing)


def test_the_command_reports_other_families_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(CASES / "sam2_image_tiny", folder)
    description = json.loads((folder / "case.json").read_text())
    (folder / "case.json").write_text(json.dumps(description | {"family": "SAM 17"}))
    assert main([str(folder)]) == 2
    assert "SAM 17" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "case.json" in capsys.readouterr().err
