"""SAM 2's video predictors on golden cases: the sessions of a case, call by call, in the order of the reference."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.sam2 import Sam2, build_sam2
from napari_segany.models.tracking import Tracking
from napari_segany.models.weights import load_strictly
from napari_segany.predict.following import Answer, Kept, ReferenceOptions, Stack
from napari_segany.predict.preprocess import normalise
from napari_segany.predict.recall import RecallRules
from napari_segany.predict.reference import ReferenceTracker
from napari_segany.predict.reference_batched import BatchedReferenceTracker

from .case import Case, check_fixed
from .sam2_image import config_from_case

INPUTS = frozenset({"frames_uint8", "true_masks"})

BATCHED = "SAM 2 legacy video predictor"

# What every released SAM 2 does when it tracks, and ours therefore has no settings for.
FIXED_FLAGS = {
    "sigmoid_scale_for_mem_enc": 20.0,
    "sigmoid_bias_for_mem_enc": -10.0,
    "use_mask_input_as_output_without_sam": True,
    "directly_add_no_mem_embed": True,
    "use_high_res_features_in_sam": True,
    "multimask_output_in_sam": True,
    "multimask_output_for_tracking": True,
    "use_multimask_token_for_obj_ptr": True,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 1,
    "only_obj_ptrs_in_the_past_for_eval": True,
    "fixed_no_obj_ptr": True,
}
FIXED_MEMORY = {"activation": "relu", "num_heads": 1, "rope_theta": 10000.0, "pos_enc_at_attn": False}


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names."""
    check_fixed(case.description["flags"], FIXED_FLAGS)
    check_fixed(case.description["config"]["memory_attention"], FIXED_MEMORY)
    results: dict[str, Tensor] = {}
    for name, session in case.description["sessions"].items():
        model = model_of(case, is_post_processed=session.get("post", True))
        run = _Run(case, model=model, session=session, prefix=name, results=results)
        for number, step in enumerate(session["ops"]):
            run.step(number, step)
    return results


def model_of(case: Case, *, is_post_processed: bool) -> Sam2:
    """Return the case's model; only with post-processing an unstable single mask is replaced."""
    extra = case.description["added_when_post"]["sam_mask_decoder_extra_args"]
    if not is_post_processed:
        extra = extra | {"dynamic_multimask_stability_thresh": 0.0}
    model = build_sam2(config_from_case(case.description | {"sam_mask_decoder_extra_args": extra}))
    load_strictly(model, case.weights, where=case.folder)
    return model.eval()


def frame_features(case: Case, model: Sam2) -> Callable[[int], ImageFeatures]:
    """Return what gives the raw features of a frame, each encoded once."""

    @functools.cache
    def features(frame: int) -> ImageFeatures:
        return model.encode_frame(frame_pixels(case.io["frames_uint8"][frame], side=model.config.image_size))

    return features


def frame_pixels(frame: Tensor, *, side: int) -> Tensor:
    """Turn an (H, W, 3) uint8 frame into normalised pixels as the reference does: resized in 8 bits, bicubic."""
    resized = Image.fromarray(frame.numpy()).resize((side, side))
    return normalise(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None] / 255.0)


def rules_of(case: Case, options: dict[str, Any]) -> RecallRules:  # JSON
    """Return which frames are remembered, with a session's options."""
    most = options.get("max_cond_frames_in_attn", -1)
    return RecallRules(
        frames=case.description["config"]["num_maskmem"],
        pointers=case.description["config"]["max_obj_ptrs_in_encoder"],
        stride=options.get("memory_temporal_stride_for_eval", 1),
        prompted=None if most == -1 else most,
    )


@dataclass
class _Run:
    """One session: a tracker, and where its outputs go."""

    case: Case
    model: Sam2
    session: dict[str, Any]  # JSON
    prefix: str
    results: dict[str, Tensor]

    def __post_init__(self) -> None:
        options = self.session["ctor"]
        self.frames = self.case.io["frames_uint8"]
        self.size = (self.frames.shape[1], self.frames.shape[2])
        tracking = Tracking(
            self.model,
            is_binarised=self.session.get("post", True),
            is_exclusive=options.get("non_overlap_masks_for_mem_enc", False),
            storage=None if self.session.get("fp32") else torch.bfloat16,
        )
        self.stack = Stack(
            tracking,
            frame_features(self.case, self.model),
            n_frames=len(self.frames),
            options=ReferenceOptions(
                rules_of(self.case, options),
                keeps_corrections=options.get("add_all_frames_to_correct_as_cond", False),
                is_exclusive=options.get("non_overlap_masks", False),
                largest_hole=options.get("fill_hole_area", 0),
                forgets_nearby=options.get("clear_non_cond_mem_around_input", False),
            ),
        )
        is_batched = self.case.description["family"] == BATCHED
        self.tracker = BatchedReferenceTracker(self.stack) if is_batched else ReferenceTracker(self.stack)

    def step(self, number: int, step: dict[str, Any]) -> None:  # JSON
        """Do one call of the session and keep what it gives."""
        prefix = f"{self.prefix}/op{number}"
        if step["op"] == "propagate":
            self._propagate(step, prefix)
        elif step["op"] == "remove_object":
            for answer in self.tracker.remove(step["obj"]):
                self._show(f"{prefix}/updated_f{answer.frame}", answer)
        elif step["op"] == "clear_prompts":
            self._show(prefix, self.tracker.clear(step["frame"], step["obj"]))
        else:
            self._show(prefix, self._prompt(step))
            if isinstance(self.tracker, ReferenceTracker):
                self._keep(prefix, [self.tracker.kept(step["frame"], step["obj"])])

    def _prompt(self, step: dict[str, Any]) -> Answer:  # JSON
        """Add a prompt."""
        if step["op"] == "add_mask":
            mask = _indexed(self.case.io, step["mask"])
            return self.tracker.add_mask(step["frame"], step["obj"], mask=mask)
        xy, labels = _points(step)
        scale = torch.tensor([self.size[1], self.size[0]])
        xy = (xy / scale * self.model.config.image_size)[None]
        replaces = step.get("clear_old_points", True)
        clicks = xy, labels[None]
        return self.tracker.add_points(step["frame"], step["obj"], clicks=clicks, replaces=replaces)

    def _propagate(self, step: dict[str, Any], prefix: str) -> None:  # JSON
        """Follow the objects."""
        seen: list[Tensor] = []
        hook = self.model.memory_attention.register_forward_hook(lambda _m, _x, y: seen.append(y))
        answers = self.tracker.propagate(
            start=step.get("start"), most=step.get("max"), is_reverse=step.get("reverse", False)
        )
        for answer in answers:
            place = f"{prefix}/f{answer.frame}"
            self._show(place, answer)
            if isinstance(self.tracker, ReferenceTracker):
                self._keep(place, [self.tracker.kept(answer.frame, one) for one in answer.object_ids])
            else:
                self._keep(place, [self.tracker.kept(answer.frame)])
            if seen:
                last = seen[-1].flatten(2).permute(2, 0, 1)  # (hw, 1, C)
                self.results[f"{place}/memory_attention_output_last_object"] = last
        hook.remove()

    def _show(self, place: str, answer: Answer) -> None:
        """Keep what the reference returns of a frame."""
        self.results[f"{place}/video_res_masks"] = self.stack.shown(answer.logits, size=self.size)

    def _keep(self, place: str, kept: list[Kept]) -> None:
        """Keep what the reference stored of a frame."""
        answers = [one.answer for one in kept]
        self.results |= {
            f"{place}/low_res": torch.cat([one.logits for one in answers]),
            f"{place}/object_score_logits": torch.cat([one.object_scores for one in answers]),
            f"{place}/obj_ptr": torch.cat([one.pointers for one in answers]),
        }
        spatial = [one.memory.spatial for one in kept if one.memory is not None]
        if len(spatial) == len(kept):
            self.results[f"{place}/maskmem_features"] = torch.cat(spatial)


def _points(step: dict[str, Any]) -> tuple[Tensor, Tensor]:  # JSON
    """Return (N, 2) points in video pixels, box corners first, and (N,) labels."""
    xy = torch.tensor(step.get("points", []), dtype=torch.float32).reshape(-1, 2)
    labels = torch.tensor(step.get("labels", []), dtype=torch.long)
    if "box" not in step:
        return xy, labels
    corners = torch.tensor(step["box"], dtype=torch.float32).reshape(2, 2)
    return torch.cat((corners, xy)), torch.cat((torch.tensor([2, 3]), labels))


def _indexed(io: dict[str, Tensor], reference: str) -> Tensor:
    """Return the part of an input that "NAME[i,j]" names."""
    name, _, index = reference.removesuffix("]").partition("[")
    return io[name][tuple(int(i) for i in index.split(","))]
