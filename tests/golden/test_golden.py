"""The copied golden cases pass, and the comparison catches what it should."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from . import sam, sam2_image
from .__main__ import main
from .case import CASES, FLOOR, Case, UnsupportedCaseError, compare, read_case

FOLDERS = sorted(CASES.iterdir())


@pytest.fixture(scope="module")
def tiny() -> Case:
    return read_case(CASES / "sam2_image_tiny")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_output_of_the_reference_is_reproduced(folder: Path) -> None:
    comparisons = list(compare(read_case(folder)))
    assert len(comparisons) >= 3
    assert [str(one) for one in comparisons if not one.passes] == []


def test_only_what_memories_in_bfloat16_are_behind_may_differ_a_little_more() -> None:
    case, theirs = read_case(CASES / "sam2_video_tiny"), torch.ones(1)
    changes = case.description["conditioning"]["changes"]
    factors = {
        session: {
            round(case.allowance(name, theirs=theirs) / change["max_abs_change"], 3)
            for name, change in changes.items()
            if name.startswith(session) and change["max_abs_change"] > FLOOR
        }
        for session in ("default/", "correct_as_cond/", "fp32_memory/")
    }
    assert factors == {"default/": {4.0}, "correct_as_cond/": {4.0}, "fp32_memory/": {3.0}}


@pytest.mark.parametrize("name", ["sam2_image_tiny", "sam2_image20_tiny"])
def test_single_masks_are_chosen_by_the_same_rule(name: str) -> None:
    case = read_case(CASES / name)
    with torch.inference_mode():
        ours = sam2_image.outputs(case)
    for run, expected in case.description["token0_stable"].items():
        assert (ours[f"{run}/stability_of_token0"] >= 0.98).flatten().tolist() == expected, run


def test_a_disturbed_weight_is_caught(tiny: Case) -> None:
    weights = dict(tiny.weights)
    key = "sam_mask_decoder.iou_prediction_head.layers.2.bias"
    weights[key] = weights[key].float() + 0.01
    failed = {one.name for one in compare(replace(tiny, weights=weights)) if not one.passes}
    assert "point_multi/iou" in failed
    assert "image_embedding" not in failed


@pytest.mark.parametrize(
    ("folder", "key", "failing", "passing"),
    [
        (
            "hq_tiny",
            "mask_decoder.embedding_maskfeature.3.bias",
            "point_multi/hq_token_only=True/low_res",
            "hq_features",
        ),
        ("hq_light_tiny", "mask_decoder.compress_vit_feat.3.bias", "hq_features", "image_embedding"),
        (
            "mobile_tiny",
            "image_encoder.layers.1.blocks.0.attn.attention_biases",
            "image_embedding",
            "image_embedding_if_attention_biases_were_zero",
        ),
        ("sam_tiny", "image_encoder.blocks.1.attn.rel_pos_w", "encoder/block1", "encoder/block0"),
        ("sam_tiny", "mask_decoder.mask_tokens.weight", "point_single/iou", "image_embedding"),
        (
            "semantic_tiny",
            "model.backbone.layers.3.blocks.1.attn.relative_position_bias_table",
            "backbone/res5",
            "backbone/res4",
        ),
        (
            "semantic_tiny",
            "model.sem_seg_head.predictor.decoder.layers.1.cross_attn.sampling_offsets.bias",
            "point/decoder_hs1",
            "point/decoder_hs0",
        ),
        (
            "semantic_tiny",
            "model.sem_seg_head.predictor._bbox_embed.layers.2.bias",
            "point/decoder_refs1",
            "point/decoder_hs0",
        ),
    ],
)
def test_a_disturbed_weight_shows_where_it_works(folder: str, key: str, failing: str, passing: str) -> None:
    case = read_case(CASES / folder)
    disturbed = {**case.weights, key: case.weights[key].float() * 1.05 + 0.01}
    failed = {one.name for one in compare(replace(case, weights=disturbed)) if not one.passes}
    assert failing in failed
    assert passing not in failed


def test_a_flipped_pixel_far_from_the_border_is_caught(tiny: Case) -> None:
    logits = tiny.io["point_multi/mask_logits"]
    masks = tiny.io["point_multi/mask"].clone()
    masks.view(-1)[logits.abs().argmax()] ^= True
    case = replace(tiny, io=tiny.io | {"point_multi/mask": masks})
    assert [one.name for one in compare(case) if not one.passes and one.name.startswith("point_multi")] == [
        "point_multi/mask"
    ]


def test_a_flipped_pixel_of_masks_without_stored_logits_is_caught() -> None:
    case = read_case(CASES / "sam_tiny")
    masks = case.io["sam_forward/masks"].clone()
    with torch.inference_mode():
        logits = sam.outputs(case)["sam_forward/masks_logits"]
    masks.view(-1)[logits.abs().argmax()] ^= True
    case = replace(case, io=case.io | {"sam_forward/masks": masks})
    assert [one.name for one in compare(case) if not one.passes] == ["sam_forward/masks"]


def test_a_setting_that_no_released_model_has_is_refused() -> None:
    case = read_case(CASES / "sam_tiny")
    config = case.description["config"] | {"num_multimask_outputs": 5}
    with pytest.raises(UnsupportedCaseError, match="num_multimask_outputs is 5"):
        list(compare(replace(case, description=case.description | {"config": config})))


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
