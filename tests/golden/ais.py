"""micro-sam's distance decoder on a golden case: maps at the size of the frame, and cut and resized to the image's."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from napari_segany.core.geometry import ResizeMap
from napari_segany.models.unetr import UnetrConfig, UnetrDecoder
from napari_segany.models.weights import load_strictly
from napari_segany.predict.automatic import to_image

from .case import Case, UnsupportedCaseError

INPUTS = frozenset({"image_embedding"})


def outputs(case: Case) -> dict[str, Tensor]:
    """Return ours for every output of a case, by the reference's names."""
    decoder = decoder_of(case)
    results: dict[str, Tensor] = {}
    decoder.deconv1.register_forward_hook(lambda _m, _x, y: results.__setitem__("z9", y))
    embeddings, maps = case.io["image_embedding"], decoder(case.io["image_embedding"])
    side = case.description["config"]["img_size"]
    if maps.shape[2:] != (side, side):
        raise UnsupportedCaseError(f"maps of {tuple(maps.shape[2:])} from embeddings of {embeddings.shape}")
    sizes = (tuple(case.description[name]) for name in ("original_shape", "input_shape"))
    results["decoder_output"] = maps
    results["output"] = to_image(maps, ResizeMap(*sizes))
    return results


def decoder_of(case: Case) -> UnetrDecoder:
    """Return the case's decoder with the case's weights, for inference."""
    decoder = UnetrDecoder(config_from_case(case.description))
    load_strictly(decoder, case.weights, where=case.folder)
    return decoder.eval()


def config_from_case(description: dict[str, Any]) -> UnetrConfig:  # JSON
    """Return the configuration of a case's decoder."""
    config, constants = description["config"], description["constants"]
    if constants["final_activation"] != "Sigmoid":
        raise UnsupportedCaseError(f"final_activation is {constants['final_activation']!r}, not 'Sigmoid'")
    first = config["initial_features"]
    return UnetrConfig(
        in_width=config["prompt_dim"],
        widths=(8 * first, 4 * first, 2 * first, first),
        out_channels=constants["out_channels"],
        is_transposed=config["use_conv_transpose"],
    )
