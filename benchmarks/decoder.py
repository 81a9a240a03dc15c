"""How long SAM's prompts take once the image is encoded, here and in transformers: same weights, image and run.

`python benchmarks/decoder.py [--rounds N] [--threads N] [--weights FILE] [--json]`. README.md beside it says more.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from encoder import PREFIX, iou, own_peak_mib, random_weights
from encoder import their_key as their_encoder_key
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from napari_segany.core.intensity import Window
from napari_segany.core.types import Box, Points, Prompt
from napari_segany.models.build import build_model
from napari_segany.models.weights import read_weights
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model

SIDE = 1024
BASELINE = "transformers, float32"
CLICK = (500.0, 480.0)  # row, col
BOXES = 64
CLICKS = 5
"""Clicks of one contestant in a row; their median counts."""

Masks = NDArray[np.bool_]

RENAMED = (
    (
        r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"\.norm([1-4])\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(output_hypernetworks_mlps\.\d|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
)
"""Released keys, and transformers' names of the same."""


@dataclass
class Contestant:
    """One implementation with its features ready: `click` gives (3, H, W) masks, `boxes` (64, H, W)."""

    name: str
    click: Callable[[], Masks]
    boxes: Callable[[], Masks]
    click_ms: list[float] = field(default_factory=list)
    boxes_ms: list[float] = field(default_factory=list)


def their_key(key: str) -> str:
    """Return transformers' name of a parameter."""
    if key.startswith(PREFIX):
        return "vision_encoder." + their_encoder_key(key.removeprefix(PREFIX))
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def sample_image() -> NDArray[np.uint8]:
    """Return a (1024, 1024) uint8 phase contrast image: what scikit-image carries, twice as large."""
    from skimage.data import cell

    part = torch.from_numpy(cell()[:550, :550]).float()[None, None]
    frame = interpolate(part, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return frame[0, 0].round().byte().numpy()


def some_boxes() -> list[Box]:
    """Return 64 boxes of 40 to 220 pixels all over the image."""
    rng = np.random.default_rng(0)
    starts, sides = rng.uniform(0, SIDE - 220, (BOXES, 2)), rng.uniform(40, 220, (BOXES, 2))
    return [Box(*start, *(start + side)) for start, side in zip(starts, sides, strict=True)]


def ours(weights: Path, *, precision: str) -> Contestant:
    """Return ours as a session uses it, features embedded in its own precision."""
    predictor = ImagePredictor(load_model(weights, device="cpu", precision=precision))
    features = predictor.embed(sample_image(), window=Window(0.0, 255.0))  # as theirs sees it
    click = Prompt(points=Points(np.array([CLICK], dtype=np.float32), np.array([True])))
    boxes = [Prompt(box=box) for box in some_boxes()]
    name = "ours, default" if precision == "auto" else "ours, float32"
    return Contestant(
        name,
        lambda: predictor.predict(features, click).masks,
        lambda: np.concatenate([a.masks for a in predictor.predict_many(features, boxes, multimask=False)]),
    )


def theirs(weights: Path) -> Contestant:
    """Return transformers' SAM in float32, its default, with the post-processing of its processor."""
    from transformers import SamConfig, SamModel

    model = SamModel(SamConfig()).eval().requires_grad_(requires_grad=False)
    state = {their_key(key): value for key, value in read_weights(weights).items()}
    state["prompt_encoder.shared_embedding.positional_embedding"] = state[
        "shared_image_embedding.positional_embedding"
    ]
    model.load_state_dict(state, strict=True)
    rgb = torch.from_numpy(sample_image()).float()[None, None].expand(1, 3, SIDE, SIDE)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    with torch.inference_mode():
        embedding = model.get_image_embeddings((rgb - mean) / std)
    points = torch.tensor([[[[CLICK[1], CLICK[0]]]]])
    labels = torch.ones(1, 1, 1, dtype=torch.long)
    corners = torch.tensor([[[b.col0 - 0.5, b.row0 - 0.5, b.col1 - 0.5, b.row1 - 0.5] for b in some_boxes()]])

    def click() -> Masks:
        with torch.inference_mode():
            answer = model(image_embeddings=embedding, input_points=points, input_labels=labels)
        order = torch.argsort(-answer.iou_scores[0, 0], stable=True)
        return _post(answer.pred_masks[0])[0][order]

    def boxes() -> Masks:
        with torch.inference_mode():
            answer = model(image_embeddings=embedding, input_boxes=corners, multimask_output=False)
        return _post(answer.pred_masks[0])[:, 0]

    return Contestant(BASELINE, click, boxes)


def _post(logits: Tensor) -> Masks:
    """Return (P, M, H, W) masks of (P, M, 256, 256) logits as the processor does: to the frame, then the image."""
    frame = interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)
    image = interpolate(frame, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (image > 0).numpy()


MAKERS: dict[str, Callable[[Path], Contestant]] = {
    "ours, default": lambda weights: ours(weights, precision="auto"),
    "ours, float32": lambda weights: ours(weights, precision="reproducible"),
    BASELINE: theirs,
}


def measure(contestants: list[Contestant], *, rounds: int) -> None:
    """Fill in the times: all answer in turn, round after round, first the click, then the boxes.

    The boxes of one would leave the caches and the allocator of the next one's click in another state.
    """
    for round_ in range(rounds + 1):  # the first does not count
        for one in contestants:
            took = [_milliseconds(one.click) for _ in range(CLICKS)]
            one.click_ms += took if round_ > 0 else []
    for round_ in range(rounds + 1):
        for one in contestants:
            took = [_milliseconds(one.boxes)]
            one.boxes_ms += took if round_ > 0 else []


def _milliseconds(answer: Callable[[], Masks]) -> float:
    start = time.perf_counter()
    answer()
    return 1000 * (time.perf_counter() - start)


def report(arguments: argparse.Namespace) -> dict[str, Any]:  # JSON
    """Measure everything and return what there is to say."""
    with TemporaryDirectory() as scratch:
        path = arguments.weights
        if path is None:
            path = Path(scratch) / "random.safetensors"
            save_file(all_random_weights(), path)
        entered = [make(path) for make in MAKERS.values()]
        measure(entered, rounds=arguments.rounds)
        peaks = {name: peak_mib(name, weights=path, threads=arguments.threads) for name in MAKERS}
    base = entered[-1]
    click, boxes = (torch.from_numpy(answer()) for answer in (base.click, base.boxes))
    return {
        "model": "SAM ViT-B",
        "image": [SIDE, SIDE],
        "weights": "random" if arguments.weights is None else arguments.weights.name,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "baseline": BASELINE,
        "rows": [
            {
                "name": one.name,
                "click_ms": round(statistics.median(one.click_ms), 1),
                "click_speedup": round(statistics.median(base.click_ms) / statistics.median(one.click_ms), 2),
                "click_iou": round(iou(torch.from_numpy(one.click())[:, None], click[:, None]), 4),
                "boxes_ms": round(statistics.median(one.boxes_ms), 1),
                "boxes_speedup": round(statistics.median(base.boxes_ms) / statistics.median(one.boxes_ms), 2),
                "boxes_iou": round(iou(torch.from_numpy(one.boxes())[:, None], boxes[:, None]), 4),
                "peak_mib": peaks[one.name],
            }
            for one in entered
        ],
    }


def all_random_weights() -> dict[str, Tensor]:
    """Return random weights of a whole SAM ViT-B under released keys."""
    torch.manual_seed(1)
    ours_to_released = re.compile(r"(\.transformer\.layers\.\d+\.mlp)\.layers\.(\d)\.")
    state = build_model("sam_vit_b").state_dict()
    released = {ours_to_released.sub(lambda m: f"{m[1]}.lin{int(m[2]) + 1}.", k): v for k, v in state.items()}
    return released | random_weights()


def peak_mib(name: str, *, weights: Path, threads: int) -> int:
    """Return the peak resident memory of one contestant alone, in a process of its own, encoding included."""
    command = [sys.executable, __file__, "--only", name, "--weights", str(weights), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.splitlines()[-1]))


def print_table(result: dict[str, Any]) -> None:  # JSON
    """Print the report as one table."""
    print(
        f"SAM ViT-B decoder, {SIDE} x {SIDE}, {result['weights']} weights, {result['threads']} threads, "
        f"medians of {result['rounds']} rounds"
    )
    print(
        f"{'':<24} {'click ms':>9} {'x':>6} {'IoU':>7} {f'{BOXES} boxes ms':>12} {'x':>6} {'IoU':>7} {'peak MiB':>9}"
    )
    for row in result["rows"]:
        print(
            f"{row['name']:<24} {row['click_ms']:>9.1f} {row['click_speedup']:>6.2f} {row['click_iou']:>7.4f} "
            f"{row['boxes_ms']:>12.1f} {row['boxes_speedup']:>6.2f} {row['boxes_iou']:>7.4f} {row['peak_mib']:>9}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="a released SAM ViT-B, in place of random weights")
    parser.add_argument("--only", choices=tuple(MAKERS), help="print the peak memory of one, in MiB")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        one = MAKERS[arguments.only](arguments.weights)
        one.click(), one.boxes()
        print(own_peak_mib())
        return
    result = report(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
