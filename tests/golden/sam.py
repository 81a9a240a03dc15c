"""SAM, MobileSAM and HQ-SAM on a golden case, at the level of the model.

Images and coordinates go to the model's frame as the reference does it: resized as uint8 by PIL, scaled first. Ours,
which keeps full precision and maps pixel centres exactly, is tested with `predict`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from napari_segany.core.geometry import ResizeMap, fit_long_side
from napari_segany.core.intensity import Window
from napari_segany.models.build import build_model, key_map_of
from napari_segany.models.fine import FineConfig
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.mask_decoder import DecoderConfig, MaskOutput, resize_logits
from napari_segany.models.prompt_labels import BOX_END, BOX_START, POSITIVE
from napari_segany.models.sam import Sam, SamConfig
from napari_segany.models.tiny_vit import TinyVitConfig, WindowAttention
from napari_segany.models.vit import VitConfig, VitEncoder
from napari_segany.models.weights import load_strictly
from napari_segany.predict.preprocess import to_frame, to_rgb

from .case import Case, check_fixed

INPUTS = frozenset({"image_uint8", "batch_points/coords_model_frame", "batch_boxes/boxes_model_frame"})

# What every released SAM has, and the model therefore does not make a setting of.
_FIXED = {"iou_head_depth": 3, "num_multimask_outputs": 3, "mlp_ratio": 4}
_FIXED_TINY = {"mbconv_expand_ratio": 4, "local_conv_size": 3}
_FIXED_CONSTANTS = {"mask_threshold": 0, "qkv_bias": True, "use_rel_pos": True, "use_abs_pos": True}
_USES = {"hq_token_only=False": "added", "hq_token_only=True": "only"}


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names, and the logits behind each mask."""
    model = model_of(case)
    results: dict[str, Tensor] = {}
    with _encoder_parts(model, results=results):
        features = _encode(model, case=case, results=results)
    unbiased = _without_biases(model).encode(results["encoder/input_image"])
    results["image_embedding_if_attention_biases_were_zero"] = unbiased.embedding
    for prompt in case.description["prompts"]:
        _answer(model, features, prompt=prompt, case=case, results=results)
    _answer_batches(model, features, case=case, results=results)
    return results


def model_of(case: Case) -> Sam:
    """Return the case's model with the case's weights, for inference."""
    config = config_from_case(case.description)
    model = build_model(config)
    assert isinstance(model, Sam)
    load_strictly(model, case.weights, key_map=key_map_of(config), where=case.folder)
    return model.eval()


def config_from_case(description: dict[str, Any]) -> SamConfig:  # JSON
    """Return the configuration of a case's model."""
    config = description["config"]
    check_fixed(config, _FIXED)
    if "constants" in description:
        check_fixed(description["constants"], _FIXED_CONSTANTS)
    fine = FineConfig(config["vit_dim"]) if description["family"] == "HQ-SAM" else None
    return SamConfig(
        description["case"],
        _trunk(config),
        image_size=config["img_size"],
        width=config["prompt_dim"],
        mask_channels=config["mask_in_chans"],
        resizing="pad",
        decoder=DecoderConfig(
            depth=config["decoder_depth"],
            heads=config["decoder_heads"],
            mlp_width=config["decoder_mlp_dim"],
            iou_width=config["iou_head_hidden_dim"],
            generation=1,
            fine=fine,
        ),
    )


def _trunk(config: dict[str, Any]) -> VitConfig | TinyVitConfig:  # JSON
    """Return the configuration of the image encoder."""
    if "embed_dims" in config:
        check_fixed(config, _FIXED_TINY)
        return TinyVitConfig(
            widths=tuple(config["embed_dims"]),
            depths=tuple(config["depths"]),
            heads=tuple(config["tiny_num_heads"]),
            windows=tuple(config["window_sizes"]),
            image_size=config["img_size"],
            out_width=config["prompt_dim"],
            classes=config["num_classes"],
        )
    check_fixed(config, {"patch_size": 16})
    return VitConfig(
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        global_blocks=tuple(config["global_attn_indexes"]),
        window=config["window_size"],
        image_size=config["img_size"],
        out_width=config["prompt_dim"],
    )


@contextmanager
def _encoder_parts(model: Sam, *, results: dict[str, Tensor]) -> Iterator[None]:
    """Keep what the encoder computes on the way, in the reference's shapes."""
    encoder = model.image_encoder

    def keep(_module: nn.Module, _inputs: object, value: Tensor, *, names: list[str]) -> None:
        results.update(dict.fromkeys(names, value))

    def keep_stage(_module: nn.Module, _inputs: object, value: Tensor, *, index: int) -> None:
        results[f"encoder/layer{index}"] = value.flatten(2).transpose(1, 2)  # (B, hw, C)
        if index == 1:
            results["interm_embeddings/0"] = value.permute(0, 2, 3, 1)

    hooks = [encoder.patch_embed.register_forward_hook(partial(keep, names=["encoder/patch_embed"]))]
    if isinstance(encoder, VitEncoder):
        places = sorted(encoder.config.global_blocks)
        for i, block in enumerate(encoder.blocks):
            names = [f"encoder/block{i}"]
            if i in places:
                names.append(f"interm_embeddings/{places.index(i)}")
            hooks.append(block.register_forward_hook(partial(keep, names=names)))
    else:
        for i, stage in enumerate(encoder.layers):
            hooks.append(stage.register_forward_hook(partial(keep_stage, index=i)))
    yield
    for hook in hooks:
        hook.remove()


def _encode(model: Sam, *, case: Case, results: dict[str, Tensor]) -> ImageFeatures:
    """Return the features of the case's image, resized as the reference does it."""
    resize, side = _resize_of(case), model.config.image_size
    picture = Image.fromarray(case.io["image_uint8"].numpy())
    resized = np.array(picture.resize(resize.target[::-1], Image.Resampling.BILINEAR))
    pixels = to_frame(
        to_rgb(resized, Window(0.0, 255.0)), ResizeMap(resize.target, resize.target), frame=(side, side)
    )
    features = model.encode(pixels)
    results |= {
        "resized_image_uint8": torch.from_numpy(resized),
        "encoder/input_image": pixels,
        "image_embedding": features.embedding,
        "dense_pe": model.prompts.dense_code((side // model.config.stride,) * 2),
    }
    if model.config.has_fine:
        (results["hq_features"],) = features.fine
    return features


def _without_biases(model: Sam) -> Sam:
    """Return a copy whose windows attend without biases, as the reference does before its second `eval()`."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if isinstance(part, WindowAttention):
            part.attention_biases.zero_()
    return model


def _resize_of(case: Case) -> ResizeMap:
    """Return how the case's image fills the frame."""
    size = tuple(case.io["image_uint8"].shape[:2])
    return fit_long_side(size, long_side=case.description["config"]["img_size"])


def _answer(
    model: Sam,
    features: ImageFeatures,
    *,
    prompt: dict[str, Any],
    case: Case,
    results: dict[str, Tensor],  # JSON
) -> None:
    """Add the outputs of one prompt set."""
    name, multimask = prompt["name"], prompt["multimask_output"]
    xy, labels = _points(prompt, resize=_resize_of(case))
    masks = _reference(case, prompt["mask_input"])[None, None] if "mask_input" in prompt else None
    with _prompt_parts(model, name=name, results=results):
        everything = model.decode_all(features, xy, labels, masks=masks, with_fine=model.config.has_fine)
    results[f"{name}/iou_all4"] = everything.ious
    if everything.fine is None:
        chosen = model.decode(features, xy, labels, masks=masks, multimask=multimask)
        _keep(name, chosen, case=case, results=results)
        return
    results[f"{name}/all_token_masks"] = torch.cat((everything.logits, everything.fine), dim=1)
    for label, use in _USES.items():
        chosen = model.decode(features, xy, labels, masks=masks, multimask=multimask, fine=use)
        _keep(f"{name}/{label}", chosen, case=case, results=results)


@contextmanager
def _prompt_parts(model: Sam, *, name: str, results: dict[str, Tensor]) -> Iterator[None]:
    """Keep the prompt encoder's tokens and map."""
    hook = model.prompts.register_forward_hook(
        lambda _m, _x, parts: results.update({f"{name}/sparse": parts[0], f"{name}/dense": parts[1]})
    )
    yield
    hook.remove()


def _keep(name: str, chosen: MaskOutput, *, case: Case, results: dict[str, Tensor]) -> None:
    """Add what is shown of one prompt."""
    logits = _upsampled(chosen.logits, case=case)[0]
    results |= {
        f"{name}/low_res": chosen.logits[0],
        f"{name}/iou": chosen.ious[0],
        f"{name}/mask": logits > 0,
        f"{name}/mask_logits": logits,
    }


def _upsampled(logits: Tensor, *, case: Case) -> Tensor:
    """Bring (B, M, h, w) logits to the image's size through the frame's, as the reference does it."""
    side, resize = case.description["config"]["img_size"], _resize_of(case)
    height, width = resize.target
    return resize_logits(resize_logits(logits, (side, side))[..., :height, :width], resize.source)


def _answer_batches(model: Sam, features: ImageFeatures, *, case: Case, results: dict[str, Tensor]) -> None:
    """Add the outputs of the prompts that are stored in the model's frame and answered together."""
    fine = "added" if model.config.has_fine else "off"
    if (xy := case.io.get("batch_points/coords_model_frame")) is not None:
        labels = torch.full(xy.shape[:2], POSITIVE)
        chosen = model.decode(features, xy, labels, fine=fine)
        masks = _upsampled(chosen.logits, case=case)
        results |= {"batch_points/low_res": chosen.logits, "batch_points/iou": chosen.ious}
        results |= {"sam_forward/masks": masks > 0, "sam_forward/masks_logits": masks}
        results["sam_forward/iou"] = chosen.ious
    if (boxes := case.io.get("batch_boxes/boxes_model_frame")) is not None:
        labels = torch.tensor([BOX_START, BOX_END]).expand(len(boxes), 2)
        chosen = model.decode(features, boxes.reshape(-1, 2, 2), labels, multimask=False, fine=fine)
        results |= {"batch_boxes/low_res": chosen.logits, "batch_boxes/iou": chosen.ious}


def _points(prompt: dict[str, Any], *, resize: ResizeMap) -> tuple[Tensor, Tensor]:  # JSON
    """Return (1, N, 2) points in the model's frame and (1, N) labels, box corners last."""
    corners = np.reshape(prompt.get("box", []), (-1, 2))
    clicks = np.reshape(prompt.get("point_coords", []), (-1, 2))
    scale = np.array(resize.scale[::-1])
    xy = np.concatenate((clicks, corners)) * scale
    labels = [*prompt.get("point_labels", []), *([BOX_START, BOX_END] * (len(corners) // 2))]
    return torch.tensor(xy, dtype=torch.float32)[None], torch.tensor(labels, dtype=torch.long)[None]


def _reference(case: Case, reference: str) -> Tensor:
    """Return the stored output that "ref:NAME/low_res/INDEX" points to; of HQ-SAM, the sum of both masks."""
    name, _, index = reference.removeprefix("ref:").rpartition("/")
    if name not in case.io:
        name = name.replace("/low_res", "/hq_token_only=False/low_res")
    return case.io[name][int(index)]
