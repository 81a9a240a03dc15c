"""How long following objects takes per frame, here and in transformers: same weights, same frames, one run.

`python benchmarks/video.py [--objects 1 10 30] [--frames N] [--threads N] [--weights FILE] [--json]`; `--memory` and
`--correction` measure other things. README.md beside it says more.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from decoder import RENAMED as RENAMED_PROMPTS
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from video_costs import correction_cost, memory_growth

from napari_segany.core.intensity import Window
from napari_segany.models.build import build_model
from napari_segany.models.weights import read_weights
from napari_segany.predict.followed import Memory
from napari_segany.predict.follower import Ask, resolved
from napari_segany.predict.frame_follower import FrameFollower
from napari_segany.predict.loading import load_model

ROW = "sam2.1_hiera_tiny"
SIDE = 1024
GIVEN = 7
"""Frames whose masks are given: from then on the memory is full."""

BASELINE = "transformers, float32"
DEFAULT, EXACT = "ours, default", "ours, float32"

Images = list[NDArray[np.uint8]]  # of (1024, 1024)
Truth = NDArray[np.bool_]  # (K, T, 1024, 1024)

RENAMED = (
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    *RENAMED_PROMPTS,
    (r"^image_encoder\.trunk\.patch_embed\.proj\.", "vision_encoder.backbone.patch_embed.projection."),
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^(memory_attention)\.norm\.", r"\1.layer_norm."),
    (r"^(memory_attention\.layers\.\d\..*|mask_decoder\.transformer\..*)\.out_proj\.", r"\1.o_proj."),
    (r"^memory_encoder\.mask_downsampler\.encoder\.12\.", "memory_encoder.mask_downsampler.final_conv."),
    (r"^memory_encoder\.pix_feat_proj\.", "memory_encoder.feature_projection."),
    (r"^memory_encoder\.out_proj\.", "memory_encoder.projection."),
    (r"^memory_encoder\.fuser\.", "memory_encoder.memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"(memory_fuser.*)\.norm\.", r"\1.layer_norm."),
    (r"\.pwconv([12])\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"^obj_ptr_proj\.", "object_pointer_proj."),
    (
        r"^(.*\.mlp|object_pointer_proj|.*pred_obj_score_head)\.layers\.0\.",
        r"\1.proj_in.",
    ),
    (r"^(object_pointer_proj|.*pred_obj_score_head)\.layers\.1\.", r"\1.layers.0."),
    (r"^(object_pointer_proj|.*pred_obj_score_head)\.layers\.2\.", r"\1.proj_out."),
    (r"^(.*\.mlp)\.layers\.1\.", r"\1.proj_out."),
    (r"^obj_ptr_tpos_proj\.", "temporal_positional_encoding_projection_layer."),
    (r"^maskmem_tpos_enc$", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"^no_mem_pos_enc$", "no_memory_positional_encoding"),
    (r"^no_obj_ptr$", "no_object_pointer"),
    (r"^no_obj_embed_spatial$", "occlusion_spatial_embedding_parameter"),
)
"""Released keys, and transformers' names of the same; applied one after the other."""


@dataclass
class Contestant:
    """One implementation whose memory is full: `follow` answers the next frame with (K, 1024, 1024) masks."""

    name: str
    follow: Callable[[int], NDArray[np.bool_]]
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    masks: list[NDArray[np.bool_]] = field(default_factory=list)

    def step(self, frame: int) -> None:
        """Follow to a frame, and write down what it took."""
        start, cpu_start = time.perf_counter(), time.process_time()
        masks = self.follow(frame)
        self.seconds.append(time.perf_counter() - start)
        self.cpu_seconds.append(time.process_time() - cpu_start)
        self.masks.append(masks)


def their_state(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under transformers' names."""
    state: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = key
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"^(memory_encoder\.mask_downsampler)\.encoder\.(\d+)\.", _downsampler_key, name)
        state[name] = value
    places = [state.pop(f"prompt_encoder.point_embed.{i}.weight") for i in range(4)]
    state["prompt_encoder.point_embed.weight"] = torch.cat(places)
    code = state["shared_image_embedding.positional_embedding"]
    state["prompt_encoder.shared_embedding.positional_embedding"] = code
    return state


def _downsampler_key(match: re.Match[str]) -> str:
    layer, part = divmod(int(match[2]), 3)
    return f"{match[1]}.layers.{layer}.{('conv', 'layer_norm')[part]}."


def random_weights() -> dict[str, Tensor]:
    """Return random weights under which every object is there, and no table or layer scale is as good as nothing."""
    torch.manual_seed(1)
    state = build_model(ROW).state_dict()
    for key, value in state.items():
        if not value.any() or key.endswith("gamma"):
            value.normal_(std=0.1)
    state["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].fill_(10.0)
    return state


def scene(count: int, *, frames: int) -> tuple[Images, Truth]:
    """Return frames of 30 bright discs that drift over a noisy ground, and the masks of the first `count`."""
    rng = np.random.default_rng(0)
    rows, cols = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    start = np.stack(np.meshgrid(np.linspace(90, 930, 5), np.linspace(80, 940, 6)), axis=-1).reshape(-1, 2)
    start, radius = rng.permutation(start), rng.uniform(35, 65, 30)
    pace = rng.uniform(-6, 6, (30, 2))
    ground = rng.normal(70, 12, (SIDE, SIDE)).astype(np.float32)
    images: Images = []
    truth = np.zeros((count, frames, SIDE, SIDE), dtype=bool)
    for t in range(frames):
        image = ground.copy()
        for i, (row, col) in enumerate(start + t * pace):
            inside = (rows - row) ** 2 + (cols - col) ** 2 < radius[i] ** 2
            image[inside] += 60 + 3 * i
            if i < count:
                truth[i, t] = inside
        images.append(image.clip(0, 255).astype(np.uint8))
    return images, truth


def ours(weights: Path, *, precision: str, images: Images, truth: Truth) -> Contestant:
    """Return ours, reminded of the given masks."""
    model = load_model(weights, device="cpu", precision=precision)
    follower = FrameFollower(model, window=Window(0.0, 255.0))
    kept: list[dict[int, Memory]] = [{} for _ in truth]
    with torch.inference_mode():
        for t in range(GIVEN):
            look = follower.look(images[t])
            for one, masks in zip(kept, truth, strict=True):
                one[t] = follower.adopt(look, masks[t])

    @torch.inference_mode()
    def follow(frame: int) -> NDArray[np.bool_]:
        near = range(frame - follower.queue, frame)
        asks = [
            Ask(
                ((0, one[0]), *((frame - t, one[t]) for t in near if t > 0)),
                ((frame, one[0]), *((frame - t, one[t]) for t in reversed(range(1, frame)))),
                masks[GIVEN - 1],
                None,
            )
            for one, masks in zip(kept, truth, strict=True)
        ]
        found = follower.follow(follower.look(images[frame]), asks)
        masks = np.concatenate([resolved([answer.drawn], (SIDE, SIDE)) for answer in found])
        for one, memory in zip(kept, follower.remember(found, masks), strict=True):
            one[frame] = memory
        return masks

    return Contestant(DEFAULT if precision == "auto" else EXACT, follow)


def theirs(weights: Path, *, images: Images, truth: Truth) -> Contestant:
    """Return transformers' SAM 2 video model in float32, its default, reminded of the given masks."""
    from transformers import Sam2VideoConfig, Sam2VideoModel
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    model = Sam2VideoModel(Sam2VideoConfig()).eval().requires_grad_(requires_grad=False)
    model.load_state_dict(their_state(read_weights(weights)), strict=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = [(torch.from_numpy(image).float() / 255.0 - mean) / std for image in images]
    session = Sam2VideoInferenceSession(video_height=SIDE, video_width=SIDE, dtype=torch.float32)
    session.processed_frames = {t: pixels[min(t, len(pixels) - 1)] for t in range(16)}  # times count in 16ths
    with torch.inference_mode():
        for t in range(GIVEN):
            for number, masks in enumerate(truth):
                index = session.obj_id_to_idx(number + 1)
                session.add_mask_inputs(index, t, torch.from_numpy(masks[t])[None, None].float())
                session.obj_with_new_inputs.append(number + 1)
            model(session, frame_idx=t)
    for outputs in session.output_dict_per_obj.values():  # but the first, as if they had been followed
        given = outputs["cond_frame_outputs"]
        outputs["non_cond_frame_outputs"] = {t: given.pop(t) for t in range(1, GIVEN)}

    @torch.inference_mode()
    def follow(frame: int) -> NDArray[np.bool_]:
        low = model(session, frame_idx=frame).pred_masks
        return np.concatenate([_upscaled(part) for part in low.split(1)])

    return Contestant(BASELINE, follow)


def _upscaled(low: Tensor) -> NDArray[np.bool_]:
    """Return (K, 1024, 1024) masks of (K, 1, 256, 256) logits, as their processor does."""
    whole = torch.nn.functional.interpolate(low, (SIDE, SIDE), mode="bilinear", align_corners=False)
    masks: NDArray[np.bool_] = (whole > 0)[:, 0].numpy()
    return masks


def iou(masks: NDArray[np.bool_], reference: NDArray[np.bool_]) -> list[float]:
    """Return the intersection over union of each of (K, H, W) masks."""
    inside, either = (masks & reference).sum(axis=(1, 2)), (masks | reference).sum(axis=(1, 2))
    return [float(a / b) if b else 1.0 for a, b in zip(inside, either, strict=True)]


def compare(weights: Path, *, count: int, frames: int, with_exact: bool) -> list[dict[str, Any]]:  # JSON
    """Let all follow the same objects over the same frames in turn; return a row for each."""
    images, truth = scene(count, frames=GIVEN + frames)
    told = {"images": images, "truth": truth}
    entered = [theirs(weights, **told), ours(weights, precision="auto", **told)]
    if with_exact:
        entered.append(ours(weights, precision="reproducible", **told))
    for frame in range(GIVEN, GIVEN + frames):
        for one in entered:
            one.step(frame)
            print(
                f"{one.name}, {count} objects, frame {frame}: {one.seconds[-1]:.2f} s, CPU {one.cpu_seconds[-1]:.2f} s",
                file=sys.stderr,
            )
    base = entered[0]
    return [
        {
            "name": one.name,
            "objects": count,
            "frames": frames,
            "seconds": round(statistics.median(one.seconds), 3),
            "speedup": round(statistics.median(base.seconds) / statistics.median(one.seconds), 2),
            "cpu_seconds": round(statistics.median(one.cpu_seconds), 3),
            "cpu_speedup": round(statistics.median(base.cpu_seconds) / statistics.median(one.cpu_seconds), 2),
            "mean_iou": round(statistics.mean(_ious(one, base)), 4),
            "least_iou": round(min(_ious(one, base)), 4),
        }
        for one in entered
    ]


def _ious(one: Contestant, base: Contestant) -> list[float]:
    return [value for a, b in zip(one.masks, base.masks, strict=True) for value in iou(a, b)]


def report(arguments: argparse.Namespace) -> dict[str, Any]:  # JSON
    """Measure everything and return what there is to say."""
    with TemporaryDirectory() as scratch:
        path = arguments.weights
        if path is None:
            path = Path(scratch) / "random.safetensors"
            save_file(random_weights(), path)
        rows = [
            row
            for count in arguments.objects
            for row in compare(
                path,
                count=count,
                frames=max(1, min(arguments.frames, arguments.most // count)),
                with_exact=arguments.exact,
            )
        ]
    return {
        "model": ROW,
        "frame": [SIDE, SIDE],
        "weights": "random" if arguments.weights is None else arguments.weights.name,
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "baseline": BASELINE,
        "rows": rows,
    }


def print_table(result: dict[str, Any]) -> None:  # JSON
    """Print the report as one table."""
    print(
        f"{ROW}, {SIDE} x {SIDE}, {result['weights']} weights, {result['threads']} threads, a full memory of "
        f"{GIVEN} frames; IoU to {BASELINE}"
    )
    print(
        f"{'':<24} {'objects':>7} {'frames':>6} {'s/frame':>8} {'x':>6} {'CPU s':>7} {'x':>6} "
        f"{'mean IoU':>9} {'least':>7}"
    )
    for row in result["rows"]:
        print(
            f"{row['name']:<24} {row['objects']:>7} {row['frames']:>6} {row['seconds']:>8.2f} "
            f"{row['speedup']:>6.2f} {row['cpu_seconds']:>7.2f} {row['cpu_speedup']:>6.2f} "
            f"{row['mean_iou']:>9.4f} {row['least_iou']:>7.4f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 10, 30], choices=range(1, 31))
    parser.add_argument("--frames", type=int, default=3, help="timed frames, with full memories")
    parser.add_argument("--most", type=int, default=12, help="object-frames, where those would take too long")
    parser.add_argument("--exact", action="store_true", help="ours in float32 too, which takes long")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help=f"a released {ROW}, in place of random weights")
    parser.add_argument(
        "--memory", action="store_true", help="only the peak memory over 1000 frames of a zarr"
    )
    parser.add_argument("--correction", action="store_true", help="only what a correction costs, in steps")
    parser.add_argument("--follower", default="sam2-nano", help="the model for those two, by name or file")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory or arguments.correction:
        costs = [memory_growth] * arguments.memory + [correction_cost] * arguments.correction
        for cost in costs:
            print(json.dumps(cost(arguments.follower), indent=1))
        return
    result = report(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
