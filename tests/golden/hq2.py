"""HQ-SAM 2 on a golden case: single images with and without the base's masks, and one click through a video."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from napari_segany.models.build import key_map_of
from napari_segany.models.fine import FineConfig
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.sam2 import Sam2
from napari_segany.models.tracking import Tracking
from napari_segany.models.weights import load_strictly
from napari_segany.predict.following import ReferenceOptions, Stack
from napari_segany.predict.reference_batched import BatchedReferenceTracker

from .case import Case, check_fixed
from .sam2_image import CLAMP, config_from_case, pixels_of, points_of
from .sam2_video import FIXED_FLAGS, FIXED_MEMORY, frame_features, rules_of

INPUTS = frozenset({"image_uint8", "frames_uint8"})


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names."""
    check_fixed(case.description["flags"], FIXED_FLAGS)
    check_fixed(case.description["config"]["memory_attention"], FIXED_MEMORY)
    model = model_of(case)
    features = model.encode(pixels_of(case.io["image_uint8"], side=model.config.image_size))
    results = {"image_embedding": features.embedding}
    results["high_res_feat0"], results["high_res_feat1"] = features.fine
    for prompt in case.description["prompts"]:
        results |= _answers(model, features, prompt=prompt, case=case)
    return results | _followed(model, case)


def model_of(case: Case) -> Sam2:
    """Return the case's model with the case's weights, for inference."""
    config = config_from_case(case.description)
    config = replace(config, decoder=replace(config.decoder, fine=FineConfig()))
    model = Sam2(config)
    load_strictly(model, case.weights, key_map=key_map_of(config), where=case.folder)
    return model.eval()


def _answers(
    model: Sam2, features: ImageFeatures, *, prompt: dict[str, Any], case: Case
) -> dict[str, Tensor]:  # JSON
    """Return the outputs of one prompt, with and without the base's masks."""
    size = tuple(case.io["image_uint8"].shape[:2])
    xy, labels = points_of(prompt, size=size, side=model.config.image_size)
    everything = model.decode_all(features, xy, labels, with_fine=True)
    assert everything.fine is not None
    name = prompt["name"]
    results = {f"{name}/all_token_masks": torch.cat((everything.logits, everything.fine), dim=1)}
    for alone in (False, True):
        fine = "only" if alone else "added"
        chosen = model.decoder.select(everything, multimask=prompt["multimask_output"], fine=fine)
        place = f"{name}/hq_token_only={alone}"
        results |= {f"{place}/low_res": chosen.logits[0].clamp(-CLAMP, CLAMP), f"{place}/iou": chosen.ious[0]}
    return results


def _followed(model: Sam2, case: Case) -> dict[str, Tensor]:
    """Return the outputs of a click at (14, 13) on the first frame, followed to the last."""
    height, width = case.io["frames_uint8"].shape[1:3]
    stack = Stack(
        Tracking(model, fine="added"),
        frame_features(case, model),
        n_frames=len(case.io["frames_uint8"]),
        options=ReferenceOptions(rules_of(case, {})),
    )
    tracker = BatchedReferenceTracker(stack)
    xy = torch.tensor([[[14.0 / width, 13.0 / height]]]) * model.config.image_size
    click = tracker.add_points(0, 1, clicks=(xy, torch.tensor([[1]])))
    results = {"video/click/video_res_masks": stack.shown(click.logits, size=(height, width))}
    for answer in tracker.propagate():
        kept = tracker.kept(answer.frame).answer
        place = f"video/f{answer.frame}"
        results |= {
            f"{place}/low_res": answer.logits,
            f"{place}/obj_ptr": kept.pointers,
            f"{place}/object_score_logits": kept.object_scores,
        }
    return results
