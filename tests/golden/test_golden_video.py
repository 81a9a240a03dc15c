"""The video goldens look at the memory: what is recalled is recorded, and disturbed memory weights are caught."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from napari_segany.models.memory import MemoryAttention

from . import sam2_video
from .case import CASES, compare, read_case


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """Give a list that fills with the tokens and pointer tokens of each look at the memory."""
    seen: list[list[int]] = []
    forward = MemoryAttention.forward

    def spied(self: MemoryAttention, *args: Any, **named: Any) -> torch.Tensor:  # as the original
        seen.append([args[1].shape[1], named["pointers"]])
        return forward(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryAttention, "forward", spied)
        yield seen


@pytest.mark.parametrize("name", ["sam2_video_tiny", "sam2_video20_tiny", "sam2_video_options_tiny"])
def test_as_much_is_recalled_as_the_reference_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = read_case(CASES / name)
    for session, steps in case.description["trace"].items():
        expected = [look for step in steps for look in step.get("memory_tokens_and_pointer_tokens", [])]
        operations = case.description["sessions"][session]
        description = case.description | {"sessions": {session: operations}}
        with recorded(monkeypatch) as seen, torch.inference_mode():
            sam2_video.outputs(replace(case, description=description))
        if "not_stored" in operations:  # nor are the looks of those calls recorded, which come first
            assert len(seen) > len(expected)
            seen = seen[-len(expected) :]
        assert seen == expected, session


@pytest.mark.parametrize(
    ("name", "key", "failing", "passing"),
    [
        ("sam2_video_tiny", "maskmem_tpos_enc", "op2/f1/low_res", "op2/f0/low_res"),
        ("sam2_video_tiny", "obj_ptr_tpos_proj.weight", "op2/f1/low_res", "op2/f0/obj_ptr"),
        ("sam2_video_tiny", "no_obj_embed_spatial", "op2/f7/low_res", "op2/f0/obj_ptr"),
        ("sam2_video_tiny", "no_obj_ptr", "op1/obj_ptr", "op0/obj_ptr"),
        ("sam2_video20_tiny", "memory_encoder.fuser.layers.0.gamma", "op2/f1/obj_ptr", "op2/f0/obj_ptr"),
        ("sam2_video20_tiny", "mask_downsample.weight", "op1/obj_ptr", "op0/obj_ptr"),
    ],
)
def test_disturbed_memory_weights_show_where_they_work(
    name: str, key: str, failing: str, passing: str
) -> None:
    case = read_case(CASES / name)
    session = {"fp32_memory": case.description["sessions"]["fp32_memory"]}
    case = replace(
        case,
        description=case.description | {"sessions": session},
        weights={**case.weights, key: case.weights[key].float() * 1.05 + 0.01},
    )
    failed = {one.name for one in compare(case) if not one.passes}
    assert f"fp32_memory/{failing}" in failed
    assert f"fp32_memory/{passing}" not in failed
