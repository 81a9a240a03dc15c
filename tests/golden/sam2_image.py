"""SAM 2's image predictor on a golden case, at the level of the model.

Coordinates go to the model's frame as the reference does it, scaled first; ours, which maps pixel centres
exactly, is tested with `predict`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_segany.core.geometry import stretch
from napari_segany.core.intensity import Window
from napari_segany.models.hiera import HieraConfig
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import DecoderConfig, resize_logits
from napari_segany.models.memory import MemoryConfig
from napari_segany.models.prompt_labels import BOX_END, BOX_START
from napari_segany.models.sam2 import Sam2, Sam2Config, build_sam2
from napari_segany.models.weights import load_strictly
from napari_segany.predict.preprocess import to_frame, to_rgb

from .case import Case, check_fixed

INPUTS = frozenset({"image_uint8"})
CLAMP = 32.0  # the reference returns low-resolution logits within +-32

# What every released SAM 2 has, and the model therefore does not make a setting of.
_FIXED = {
    "fpn_top_down_levels": [2, 3],
    "fpn_interp_model": "nearest",
    "scalp": 1,
}
_FIXED_TRUNK = {"q_pool": 3, "q_stride": [2, 2], "dim_mul": 2.0, "head_mul": 2.0}


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names, and the logits behind each mask."""
    model = model_of(case)
    results: dict[str, Tensor] = {}
    features = _encode(model, case=case, results=results)
    for prompt in case.description["prompts"]:
        _answer(model, features, prompt=prompt, case=case, results=results)
    return results


def model_of(case: Case) -> Sam2:
    """Return the case's model with the case's weights, for inference."""
    model = build_sam2(config_from_case(case.description))
    load_strictly(model, case.weights, where=case.folder)
    return model.eval()


def config_from_case(description: dict[str, Any]) -> Sam2Config:  # JSON
    """Return the configuration of a case's model."""
    config = description["config"]
    check_fixed(config, _FIXED)
    check_fixed(config["hiera"], _FIXED_TRUNK)
    decoder, memory, trunk = config["decoder"], config["memory_attention"], config["hiera"]
    stability = description["sam_mask_decoder_extra_args"]
    return Sam2Config(
        description["case"],
        HieraConfig(
            width=trunk["embed_dim"],
            heads=trunk["num_heads"],
            stages=tuple(trunk["stages"]),
            global_blocks=tuple(trunk["global_att_blocks"]),
            windows=tuple(trunk["window_spec"]),
            position_grid=tuple(trunk["window_pos_embed_bkg_spatial_size"]),
        ),
        version=config["flags"],
        image_size=config["image_size"],
        width=config["d_model"],
        mask_channels=decoder["mask_in_chans"],
        decoder=DecoderConfig(
            depth=decoder["depth"],
            heads=decoder["num_heads"],
            mlp_width=decoder["mlp_dim"],
            iou_width=decoder["iou_head_hidden_dim"],
            stability_delta=stability["dynamic_multimask_stability_delta"],
            stability_threshold=stability["dynamic_multimask_stability_thresh"],
        ),
        memory=MemoryConfig(
            width=config["mem_dim"],
            layers=memory["num_layers"],
            mlp_width=memory["dim_feedforward"],
            frames=config["num_maskmem"],
            pointers=config["max_obj_ptrs_in_encoder"],
        ),
    )


def pixels_of(image: Tensor, *, side: int) -> Tensor:
    """Turn an (H, W, 3) uint8 image into (1, 3, side, side) normalised pixels, as `predict` does."""
    rgb = to_rgb(image.numpy(), Window(0.0, 255.0))
    return to_frame(rgb, stretch(tuple(image.shape[:2]), side=side))


def _encode(model: Sam2, *, case: Case, results: dict[str, Tensor]) -> ImageFeatures:
    """Return the features of the case's image, keeping what the encoder computes on the way."""
    pixels = pixels_of(case.io["image_uint8"], side=model.config.image_size)
    results["encoder/input_image"] = pixels
    trunk, neck = model.image_encoder.trunk, model.image_encoder.neck
    hooks = [
        block.register_forward_hook(lambda _m, _x, y, name=f"encoder/block{i}": results.__setitem__(name, y))
        for i, block in enumerate(trunk.blocks)
    ]
    hooks.append(
        neck.register_forward_hook(
            lambda _m, _x, maps: results.update({f"encoder/fpn{i}": level for i, level in enumerate(maps)})
        )
    )
    features = model.encode(pixels)
    for hook in hooks:
        hook.remove()
    for level in (1, 2):
        side = model.config.image_size // (4 * 2**level)
        results[f"encoder/pos{level}"] = model.position_code((side, side)).reshape(1, -1, side, side)
    results["image_embedding"] = features.embedding
    results["high_res_feat0"], results["high_res_feat1"] = features.fine
    return features


def _answer(
    model: Sam2,
    features: ImageFeatures,
    *,
    prompt: dict[str, Any],
    case: Case,
    results: dict[str, Tensor],  # JSON
) -> None:
    """Add the outputs of one prompt set."""
    name = prompt["name"]
    size = tuple(case.io["image_uint8"].shape[:2])
    xy, labels = points_of(prompt, size=size, side=model.config.image_size)
    masks = None
    if "mask_input" in prompt:
        masks = _reference(case, prompt["mask_input"])[None, None]
    everything = model.decode_all(features, xy, labels, masks=masks)
    chosen = model.sam_mask_decoder.select(everything, multimask=prompt["multimask_output"])
    logits = resize_logits(chosen.logits, size)
    stability = model.sam_mask_decoder.stability(everything.logits[:, :1])
    answers = {
        "low_res": chosen.logits.clamp(-CLAMP, CLAMP),
        "iou": chosen.ious,
        "mask": logits > 0,
        "mask_logits": logits,
    }
    is_batch = len(case.io[f"{name}/low_res"].shape) == len(answers["low_res"].shape)
    for key, value in answers.items():
        results[f"{name}/{key}"] = value if is_batch else value[0]
    results |= {
        f"{name}/iou_all4": everything.ious,
        f"{name}/object_score_logits": everything.object_scores,
        f"{name}/stability_of_token0": stability,
    }


def points_of(prompt: dict[str, Any], *, size: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:  # JSON
    """Return (B, N, 2) points in the model's frame and (B, N) labels, box corners first."""
    parts: list[tuple[Tensor, Tensor]] = []
    if "box" in prompt:
        corners = torch.tensor(prompt["box"], dtype=torch.float32).reshape(-1, 2, 2)
        parts.append((corners, torch.tensor([BOX_START, BOX_END]).expand(len(corners), 2)))
    if "point_coords" in prompt:
        clicks = torch.tensor(prompt["point_coords"], dtype=torch.float32)[None]
        parts.append((clicks, torch.tensor(prompt["point_labels"])[None]))
    if not parts:
        return torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)
    xy = torch.cat([points for points, _ in parts], dim=1)
    frame = torch.tensor([side / size[1], side / size[0]])
    return xy * frame, torch.cat([labels for _, labels in parts], dim=1)


def _reference(case: Case, reference: str) -> Tensor:
    """Return the stored output that "ref:NAME/INDEX" points to."""
    name, _, index = reference.removeprefix("ref:").rpartition("/")
    return case.io[name][int(index)]
