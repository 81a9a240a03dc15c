"""Model cards: what they say comes from the weights file's header and from evaluations."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_segany.models.reading import read_metadata
from napari_segany.models.weights import write_packed
from napari_segany.train.answer_plan import AnswerPlan
from napari_segany.train.card import CARDS, _cut, _facts, write_card, write_card_of
from napari_segany.train.recipes import recipe_of
from napari_segany.train.video_results import Followed, VideoEvaluation

NUMBERS = {
    "objects": 7, "click1": 0.5, "click3": 0.625, "click5": 0.75, "box": 0.875, "best_of_3": 0.5, "boundary_iou": 0.25,
    "box_boundary_iou": 0.375, "noc90": 4.5, "noisy_box": 0.8125, "refined": 0.6875, "score_rank": 0.75,
    "harmed": 0.0625,
}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    header = {"licence": "BSD-3-Clause", "step": "40", "seconds": "7200"}
    header["recipe"] = json.dumps(asdict(recipe_of("sam2-nano")))
    own = header | {"recipe": json.dumps(asdict(recipe_of("sam2-nano-memory"))), "step": "90"}
    header |= {f"memory_{key}": value for key, value in own.items() if key != "licence"}
    write_packed(path, {"a.weight": torch.ones(4, 8)}, metadata=header)
    return path


def followed(kind: str, iou: float) -> Followed:
    here = np.array([True, True, True, False])
    no = np.zeros(4, dtype=bool)
    ious = np.where(here, iou, 0.0)
    return Followed(kind, "t" if kind == "cells" else "z", 1, (0,), ~no, here, ious, ~here, no, no)


def test_a_card_says_how_weights_came_about_and_what_they_reach(tmp_path: Path, weights: Path) -> None:
    rounds = tuple((followed("cells", iou), followed("blobs", iou + 0.25)) for iou in (0.25, 0.5))
    video = VideoEvaluation("some", 2, 8, rounds, 3).as_dict()
    result = {
        **NUMBERS,
        "images": 3,
        "by_modality": {"fluorescence": NUMBERS},
        "by_size": {"under 100": NUMBERS},
        "by_gap": {"touching": NUMBERS},
    }
    card = tmp_path / "some.md"
    write_card(
        card, weights=weights, text=CARDS["sam2-nano"], evaluations={"Nuclei": result}, following=video
    )
    text = card.read_text()
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in text
    assert "averaged weights of step 40, the best by validation, after 2.0 hours" in text
    assert "averaged weights of step 90" in text
    assert "learning rate 0.002 to 0, 15% of the followed masks spoilt;" in text
    assert "clips of 8 windows of 128 pixels or 5 windows of 224 pixels" in text
    assert "crops of 192 pixels" in text
    assert "learning rate 0.0005 to 0, 45% of the batches on crops of 384 pixels;" in text
    assert (
        "crops of 384 pixels, 25% of the scenes frames of clips, mixed with 30% of the weights before;"
        in text
    )
    answers = "the judge, on answers to clicks on 560 scenes and 560 images"
    assert f"2000 steps on {answers}, batch 256, learning rate 0.003 to 0;" in text
    assert "| under 100 pixels | 7 | 0.500 | 0.625 | 0.750 | 4.500 | 0.875 | 0.812 | 0.688 |" in text
    assert "| touching | 7 | 0.500 |" in text
    assert "rank the answers at 0.75" in text
    assert "is 0.0 points above" in text
    assert "--clips 2 --corrections 1 --clicks 3`, 8 frames" in text
    assert "| one click | 2 | 0.375 |  | 1.000 |  |" in text
    assert "| 1 correction | 2 |  | 0.625 | 1.000 |  |" in text
    assert "| blobs | 1 | 0.500 | 0.750 | 1.000 |  |" in text


def test_models_that_do_not_follow_have_no_such_table(tmp_path: Path, weights: Path) -> None:
    card = tmp_path / "some.md"
    write_card(card, weights=weights, text=CARDS["sam2-nano"], evaluations={})
    assert "Following objects" not in card.read_text()


def test_a_card_of_six_levels_tells_what_clicks_lie_in(tmp_path: Path, weights: Path) -> None:
    part = {"nested": 0.75, "single": 0.875, "named": 0.625}
    own = {
        **part,
        "model": "semantic-nano",
        "scenes": 104,
        "clicks": 800,
        "by_kind": {"em": part},
        "by_level": {"1": 0.5, "3": 0.25},
        "without_prompts": {
            "truths": 90,
            "ap50": 0.5,
            "ap50_objects": 0.75,
            "ap50_parts": 0.25,
            "named": 0.875,
        },
    }
    other = {
        **own,
        "model": "sam2-nano",
        "nested": 0.5,
        "by_kind": {"em": {**part, "nested": 0.375, "named": 0.0}},
    }
    card = tmp_path / "some.md"
    write_card(
        card,
        weights=weights,
        text=CARDS["semantic-nano"],
        evaluations={},
        nested={"model": own, "against": other},
    )
    text = card.read_text()
    assert "--nested --model semantic-nano --scenes 104 --against sam2-nano" in text
    assert "| all | 0.750 | 0.875 | 0.625 | 0.500 |" in text
    assert "| em | 0.750 | 0.875 | 0.625 | 0.375 |" in text
    assert "1: 0.500, 3: 0.250" in text
    assert "average precision at half IoU 0.500" in text


def test_a_card_is_written_from_an_evaluation(tmp_path: Path, weights: Path) -> None:
    result = {**NUMBERS, "images": 3, "by_modality": {}, "by_size": {}, "by_gap": {}}
    nested = {
        "model": "sam2-nano",
        "nested": 0.625,
        "single": 0.5,
        "named": 0.0,
        "scenes": 2,
        "clicks": 9,
        "by_kind": {},
        "by_level": {"2": 0.5},
    }
    found = {"images": 4, "objects": 9, "found": 8, "msa": 0.25, "ap50": 0.5, "ap75": 0.375}
    parts = {
        "scenes": result,
        "nested": nested,
        "video": {"left_out": "it follows nothing"},
        "finding": {**found, "by_modality": {"em": found}},
        "real": {},
    }
    whole = {"model": "sam2-nano", "parts": {name: {"result": part} for name, part in parts.items()}}
    card = tmp_path / "some.md"
    assert write_card_of(card, str(weights), whole=whole)
    text = card.read_text()
    assert "## Fresh scenes\n" in text
    assert "Validation nuclei" not in text
    assert "Following objects" not in text
    assert "| all | 0.625 | 0.500 |  |" in text
    assert "| all (4 images) | 9 | 8 | 0.250 | 0.500 | 0.375 |" in text
    assert not write_card_of(card, str(weights), whole={**whole, "model": "sam2_tiny"})


def test_what_a_stage_of_answers_teaches_is_said() -> None:
    words = [_cut(asdict(AnswerPlan(about, scenes=3, images=2))) for about in ("masks", "ways")]
    assert words == [
        f"{taught}, on answers to clicks on 3 scenes and 2 images"
        for taught in ("the judge", "what fine boundaries gain")
    ]


@pytest.mark.parametrize("name", CARDS)
def test_bundled_cards_and_files_agree_with_each_other_and_with_the_recipe(name: str) -> None:
    weights = Path(str(resources.files("napari_segany") / "weights" / f"{name}.safetensors"))
    card = weights.with_suffix(".md").read_text().splitlines()
    assert [fact for fact in _facts(weights, CARDS[name]) if fact not in card] == []
    header = read_metadata(weights)
    for key, recipe in (("recipe", name), ("memory_recipe", "sam2-nano-memory")):
        if key in header:
            written = json.loads(header[key])["stages"]
            asked = recipe_of(recipe).stages
            assert [(s["steps"], s["rate"], s["kept"]) for s in written] == [
                (s.steps, s.rate, s.kept) for s in asked
            ]
