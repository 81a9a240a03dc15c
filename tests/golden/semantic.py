"""Semantic-SAM on a golden case, at the level of the model: prompts see each other, as in the authors' code.

Images come at the size that they are, normalised and padded; prompts are (x, y, w, h) as shares of the image. What the
authors' automatic mask generator adds, a grid of clicks and its filters, is written out here in their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from napari_segany.core.masks import box_iou, fill_holes, nms, remove_islands
from napari_segany.core.types import BoolMask
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.pixel_decoder import PixelDecoderConfig
from napari_segany.models.query_decoder import TOKENS, Answers, Looked, QueryDecoderConfig
from napari_segany.models.semantic_sam import CLICK_SIDE, SemanticConfig, SemanticSam, released_key
from napari_segany.models.swin import SwinConfig
from napari_segany.models.weights import load_strictly

from .case import Case, check_fixed

INPUTS = frozenset({"image_uint8"})

# What both released models have, and the model therefore does not make a setting of.
_FIXED = {"num_interactive_tokens": TOKENS, "total_num_feature_levels": 4}
_FIXED_SWIN = {"PATCH_SIZE": 4}
_FIXED_CONSTANTS = {
    "size_divisibility": 32,
    "layernorm_eps": 1e-05,
    "groupnorm_eps": 1e-05,
    "ape": False,
    "patch_norm": True,
    "qkv_bias": True,
    "inverse_sigmoid_eps": 1e-05,
}
_TOKEN_OF_LEVEL = (3, 2, 0, 4, 1, 5)  # of the authors' levels 1 to 6
_CLICK = (0.25, 0.75)  # of their interactive predictor
_AUTOMATIC = {
    "points_per_side": 32,
    "points_per_batch": 200,
    "pred_iou_thresh": 0.88,
    "stability_score_thresh": 0.92,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 0.7,
    "min_mask_region_area": 10,
    "level": [1, 2, 3, 4, 5, 6],
    "output_mode": "binary_mask",
}


@dataclass(frozen=True)
class Shown:
    """An image in front of a model: `image` and padded `frame` sizes (H, W), and its features."""

    model: SemanticSam
    features: ImageFeatures
    image: tuple[int, int]
    frame: tuple[int, int]


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names, and the logits behind each mask."""
    model = model_of(case)
    shown, results = _encode(model, case=case)
    for call in case.description["calls"]:
        results |= _answer(shown, call=call)
    results |= _predictor(shown)
    for name, run in case.description["automatic"].items():
        settings = _AUTOMATIC | run["arguments"]
        results |= {f"auto_{name}/{key}": value for key, value in _everything(shown, settings).items()}
    return results


def model_of(case: Case) -> SemanticSam:
    """Return the case's model with the case's weights, for inference."""
    model = SemanticSam(config_from_case(case.description))
    load_strictly(
        model, case.weights, key_map=lambda key: released_key(key.removeprefix("model.")), where=case.folder
    )
    return model.eval()


def config_from_case(description: dict[str, Any]) -> SemanticConfig:  # JSON
    """Return the configuration of a case's model."""
    config, constants = description["config"], description["constants"]
    check_fixed(config, _FIXED)
    check_fixed(config["swin"], _FIXED_SWIN)
    check_fixed(constants, _FIXED_CONSTANTS)
    check_fixed(config, {"hidden_dim": config["conv_dim"]})
    swin = config["swin"]
    pixels, queries = PixelDecoderConfig(), QueryDecoderConfig()
    deformable = replace(pixels.deformable, heads=config["nheads"], points=constants["deformable_points"])
    return SemanticConfig(
        description["case"],
        SwinConfig(
            swin["EMBED_DIM"],
            tuple(swin["DEPTHS"]),
            tuple(swin["NUM_HEADS"]),
            swin["WINDOW_SIZE"],
            mlp_ratio=swin["MLP_RATIO"],
        ),
        pixel_decoder=replace(
            pixels,
            width=config["conv_dim"],
            layers=config["enc_layers"],
            mlp_width=config["dim_feedforward"],
            mask_width=config["mask_dim"],
            groups=constants["groupnorm_groups"],
            deformable=deformable,
        ),
        query_decoder=replace(
            queries,
            width=config["hidden_dim"],
            layers=config["dec_layers"],
            heads=config["nheads"],
            mlp_width=config["dim_feedforward"],
            mask_width=config["mask_dim"],
            projection=config["dim_proj"],
            deformable=deformable,
        ),
    )


def _encode(model: SemanticSam, *, case: Case) -> tuple[Shown, dict[str, Tensor]]:
    """Return the case's image with its features, and what the reference keeps of the encoder."""
    constants = case.description["constants"]
    image = case.io["image_uint8"].permute(2, 0, 1)[None].float()
    mean, std = (torch.tensor(constants[f"pixel_{name}"])[:, None, None] for name in ("mean", "std"))
    step, (height, width) = constants["size_divisibility"], image.shape[2:]
    pixels = F.pad((image - mean) / std, (0, -width % step, 0, -height % step))
    maps = model.image_encoder(pixels)
    features = model.encode(pixels)
    shown = Shown(model, features, (height, width), (pixels.shape[2], pixels.shape[3]))
    results = {
        "backbone/res4": maps[2],
        "backbone/res5": maps[3],
        "pixel_decoder/mask_features": features.fine[0],
    }
    levels = model.levels_of(features)
    return shown, results | {f"pixel_decoder/multi_scale{i}": level for i, level in enumerate(levels)}


def _look(shown: Shown, points: Tensor, *, is_learnt_box: bool = False) -> tuple[list[Looked], Tensor]:
    """Return the queries of (N, 4) prompts behind each layer, and the (1, 6 N, 4) boxes behind the last.

    `is_learnt_box` is the second row of a table that the released models have and never use.
    """
    model, decoder = shown.model, shown.model.query_decoder
    (height, width), (tall, wide) = shown.image, shown.frame
    boxes = (points * torch.tensor((width / wide, height / tall) * 2))[None]
    queries = decoder.of_prompts(boxes, torch.zeros(boxes.shape[:2], dtype=torch.bool), frame=shown.frame)
    if is_learnt_box:
        kinds = decoder.pb_embedding.weight
        queries = replace(queries, content=queries.content + (kinds[1] - kinds[0]))
    steps: list[Tensor] = []
    hook = decoder.bbox_embed.register_forward_hook(lambda _module, _inputs, step: steps.append(step))
    looked = decoder.look(queries.together(), model.levels_of(shown.features), frame=shown.frame)
    hook.remove()
    return looked, decoder._moved(looked[-1].boxes, steps[-1])


def _found(shown: Shown, points: Tensor, *, is_learnt_box: bool = False) -> Answers:
    """Return what the last layer finds for (N, 4) prompts."""
    looked, _ = _look(shown, points, is_learnt_box=is_learnt_box)
    return shown.model.answers(shown.features, looked[-1])


def _answer(shown: Shown, *, call: dict[str, Any]) -> dict[str, Tensor]:  # JSON
    """Return the outputs of one call."""
    name, points = call["name"], torch.tensor(call["points"])
    tokens = call.get("level", list(range(TOKENS)))
    looked, last = _look(shown, points, is_learnt_box=bool(call["pb"][0]))
    found, first = (shown.model.answers(shown.features, looked[index]) for index in (-1, 0))
    results = {
        "pred_masks_low": found.logits,
        "pred_ious": found.ious.unflatten(1, (-1, TOKENS))[..., tokens],
        "pred_boxes": found.boxes,
        "aux0_pred_ious": first.ious.unflatten(1, (-1, TOKENS)),
        "masks": _at_image(shown, found.logits)[0].unflatten(0, (-1, TOKENS))[:, tokens].flatten(0, 1),
    }
    for index, layer in enumerate(looked):
        results |= {f"decoder_hs{index}": layer.states, f"decoder_refs{index}": layer.boxes}
    results[f"decoder_refs{len(looked)}"] = last
    return {f"{name}/{key}": value for key, value in results.items()}


def _at_image(shown: Shown, logits: Tensor) -> Tensor:
    """Bring (1, M, h, w) logits to the image's size through the frame's."""
    frame = F.interpolate(logits, size=shown.frame, mode="bilinear", align_corners=False)
    return frame[..., : shown.image[0], : shown.image[1]]


def _predictor(shown: Shown) -> dict[str, Tensor]:
    """Return the outputs of the authors' interactive predictor."""
    found = _found(shown, torch.tensor([[*_CLICK, CLICK_SIDE, CLICK_SIDE]]))
    masks = _at_image(shown, found.logits)[0] > 0
    return {"predictor/pred_ious": found.ious[:, None], "predictor/mask_area": masks.sum(dim=(1, 2))}


@dataclass
class Candidates:
    """What a grid of clicks found: logits (N, H, W), predicted IoU (N,), clicks (N, 4); then stability and masks."""

    logits: Tensor
    ious: Tensor
    points: Tensor

    def kept(self, keep: Tensor | NDArray[np.int_]) -> Candidates:
        return Candidates(self.logits[keep], self.ious[keep], self.points[keep])

    def stability(self, offset: float) -> Tensor:
        inner, outer = ((self.logits > at).sum(dim=(1, 2)).float() for at in (offset, -offset))
        return inner / outer


def _everything(shown: Shown, settings: dict[str, Any]) -> dict[str, Tensor]:  # JSON
    """Return the authors' automatic masks: a grid of clicks, filtered, best first."""
    side = settings["points_per_side"]
    axis = (torch.arange(side) + 0.5) / side
    grid = torch.stack((axis.repeat(side), axis.repeat_interleave(side)), dim=1)
    points = torch.cat((grid, torch.full_like(grid, CLICK_SIDE)), dim=1)
    parts = [_candidates(shown, batch, settings) for batch in points.split(settings["points_per_batch"])]
    found = Candidates(*(torch.cat([getattr(p, key) for p in parts]) for key in ("logits", "ious", "points")))
    threshold = settings["box_nms_thresh"]
    masks = (found.logits > 0).numpy()
    best = nms(box_iou(*[_boxes(masks)] * 2), found.ious.numpy(), threshold=threshold)
    found, masks = found.kept(best), masks[best]
    stability = found.stability(settings["stability_score_offset"])
    area = settings["min_mask_region_area"]
    if area > 0 and len(masks):
        masks, changed = _cleaned(masks, area=area)
        kept = nms(box_iou(*[_boxes(masks)] * 2), (~changed).astype(np.float32), threshold=threshold)
        found, masks, stability = found.kept(kept), masks[kept], stability[torch.from_numpy(kept)]
    boxes = torch.from_numpy(_boxes(masks))[:, [1, 0, 3, 2]]  # x, y, x, y
    return {
        "masks": torch.from_numpy(masks),
        "masks_logits": found.logits,
        "area": torch.from_numpy(masks.sum(axis=(1, 2))).float(),
        "bbox_xywh": torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1),
        "predicted_iou": found.ious,
        "stability_score": stability,
        "point_coords": found.points,
    }


def _candidates(shown: Shown, points: Tensor, settings: dict[str, Any]) -> Candidates:  # JSON
    """Return what passes the filters of (N, 4) clicks answered together, a mask for each level asked for."""
    tokens = [_TOKEN_OF_LEVEL[level - 1] for level in settings["level"]]
    found = _found(shown, points)
    logits = _at_image(shown, found.logits)[0].unflatten(0, (-1, TOKENS))[:, tokens].flatten(0, 1)
    ious = found.ious[0].unflatten(0, (-1, TOKENS))[:, tokens].flatten()
    some = Candidates(logits, ious, points.repeat_interleave(len(tokens), dim=0))
    some = some.kept(some.ious > settings["pred_iou_thresh"])
    stable = some.stability(settings["stability_score_offset"]) >= settings["stability_score_thresh"]
    return some.kept(stable)


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return (N, 4) boxes (row0, col0, row1, col1) of first and last pixels, inclusive; zeros of empty masks."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        if mask.any():
            rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
            box[:] = rows[0], cols[0], rows[-1], cols[-1]
    return boxes


def _cleaned(masks: NDArray[np.bool_], *, area: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the masks without holes and islands below an area, and which of them changed."""
    clean = [_without_specks(mask, area=area) for mask in masks]
    return np.stack(clean), np.array([bool((a != b).any()) for a, b in zip(clean, masks, strict=True)])


def _without_specks(mask: BoolMask, *, area: int) -> BoolMask:
    return remove_islands(fill_holes(mask, max_area=area - 1), min_area=area)
