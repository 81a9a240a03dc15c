"""EdgeTAM on a golden case: a click and a box on a single image, and one click followed through a video."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from napari_segany.models.perceiver import PerceiverConfig
from napari_segany.models.repvit import RepVitConfig
from napari_segany.models.sam2 import Sam2, Sam2Config
from napari_segany.models.tracking import Tracking
from napari_segany.models.weights import load_strictly
from napari_segany.predict.following import ReferenceOptions, Stack
from napari_segany.predict.reference_batched import BatchedReferenceTracker

from .case import Case, check_fixed
from .sam2_image import CLAMP, config_from_case, pixels_of, points_of
from .sam2_video import FIXED_FLAGS, FIXED_MEMORY, frame_features, rules_of

INPUTS = frozenset({"image_uint8", "frames_uint8"})

_FIXED_FLAGS = FIXED_FLAGS | {"add_tpos_enc_to_obj_ptrs": False}
_FIXED_PERCEIVER = {
    "heads": 1,
    "ff_mult": 4,
    "pos_enc_at_key_value": True,
    "concat_kv_latents": False,
    "use_self_attn": True,
}


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names."""
    check_fixed(case.description["flags"], _FIXED_FLAGS)
    check_fixed(case.description["config"]["memory_attention"], FIXED_MEMORY)
    check_fixed(case.description["config"]["perceiver"], _FIXED_PERCEIVER)
    model = model_of(case)
    return _of_image(model, case) | _followed(model, case)


def model_of(case: Case) -> Sam2:
    """Return the case's model with the case's weights, for inference."""
    model = Sam2(_config_of(case.description))
    load_strictly(model, case.weights, where=case.folder)
    return model.eval()


def _config_of(description: dict[str, Any]) -> Sam2Config:  # JSON
    """Return the configuration of a case's model; its memory is told by as many tokens as the case says."""
    config = description["config"]
    base = config_from_case(description | {"config": config | {"flags": "2.0"}})
    assert base.memory is not None
    trunk, perceiver = config["repvit"], config["perceiver"]
    tokens = PerceiverConfig(
        perceiver["num_latents"], isqrt(perceiver["num_latents_2d"]), layers=perceiver["depth"]
    )
    return replace(
        base,
        trunk=RepVitConfig(tuple(trunk["embed_dim"]), tuple(trunk["depth"])),
        memory=replace(base.memory, perceiver=tokens),
    )


def _of_image(model: Sam2, case: Case) -> dict[str, Tensor]:
    """Return the features of the case's image and the answers to both prompts on it."""
    results: dict[str, Tensor] = {}

    def keep(_module: object, _inputs: object, maps: list[Tensor]) -> None:
        results.update({f"encoder/trunk{i}": level for i, level in enumerate(maps)})

    hook = model.image_encoder.trunk.register_forward_hook(keep)
    features = model.encode(pixels_of(case.io["image_uint8"], side=model.config.image_size))
    hook.remove()
    results["image_embedding"] = features.embedding
    results["high_res_feat0"], results["high_res_feat1"] = features.fine
    size = tuple(case.io["image_uint8"].shape[:2])
    for name, prompt in _prompts(size).items():
        xy, labels = points_of(prompt, size=size, side=model.config.image_size)
        chosen = model.decode(features, xy, labels, multimask=name == "point_multi")
        results |= {f"{name}/low_res": chosen.logits[0].clamp(-CLAMP, CLAMP), f"{name}/iou": chosen.ious[0]}
    return results


def _prompts(size: tuple[int, int]) -> dict[str, dict[str, Any]]:  # JSON
    """Return what is asked of an image: a click and a box, which the case tells in words, as parts of its size."""
    height, width = size
    return {
        "point_multi": {"point_coords": [[0.4 * width, 0.4 * height]], "point_labels": [1]},
        "box_single": {"box": [0.1 * width, 0.2 * height, 0.7 * width, 0.8 * height]},
    }


def _followed(model: Sam2, case: Case) -> dict[str, Tensor]:
    """Return the outputs of a click at (14, 13) on the first frame, followed to the last."""
    height, width = case.io["frames_uint8"].shape[1:3]
    stack = Stack(
        Tracking(model),
        frame_features(case, model),
        n_frames=len(case.io["frames_uint8"]),
        options=ReferenceOptions(rules_of(case, {})),
    )
    tracker = BatchedReferenceTracker(stack)
    xy = torch.tensor([[[14.0 / width, 13.0 / height]]]) * model.config.image_size
    click = tracker.add_points(0, 1, clicks=(xy, torch.tensor([[1]])))
    results = {"video/click/video_res_masks": stack.shown(click.logits, size=(height, width))}
    for answer in tracker.propagate():
        kept = tracker.kept(answer.frame)
        assert kept.memory is not None
        place = f"video/f{answer.frame}"
        results |= {
            f"{place}/low_res": answer.logits,
            f"{place}/obj_ptr": kept.answer.pointers,
            f"{place}/object_score_logits": kept.answer.object_scores,
            f"{place}/maskmem_features": kept.memory.spatial,
            f"{place}/maskmem_pos_enc": model.spatial_perceiver.code()[None],
        }
    return results
