"""How long SAM ViT-B takes to encode an image, here and in transformers: same weights, same 1024 x 1024 image, one run.

`python benchmarks/encoder.py [--rounds N] [--threads N] [--weights FILE] [--json]`. README.md beside it says more.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from napari_segany.core.types import ModelCard
from napari_segany.models.build import build_model
from napari_segany.models.cache import CACHE_VARIABLE
from napari_segany.models.image_model import ImageFeatures
from napari_segany.models.promptable import Promptable
from napari_segany.models.sam import released_key
from napari_segany.models.vit import VIT, VitEncoder
from napari_segany.models.weights import load_strictly, read_weights
from napari_segany.predict.engines import use_engine
from napari_segany.predict.precision import place

SIDE = 1024
PREFIX = "image_encoder."
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
BASELINE = "transformers, float32"

Encode = Callable[[Tensor], Tensor]
"""(1, 3, 1024, 1024) normalised pixels to a (1, 256, 64, 64) float32 embedding."""

RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.", "layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)
"""Released keys below `image_encoder.`, and transformers' below `vision_encoder.`."""


@dataclass
class Contestant:
    """An encoder, its times, and what it made of the image."""

    name: str
    encode: Encode
    seconds: list[float] = field(default_factory=list)
    embedding: Tensor = field(default_factory=lambda: torch.empty(0))


def their_key(key: str) -> str:
    """Return transformers' name of an encoder parameter."""
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def ours(weights: dict[str, Tensor], *, precision: str) -> Encode:
    """Return our encoder as `load_model(precision=...)` runs it."""
    with torch.device("meta"):
        encoder = VitEncoder(VIT["vit_b"])
    encoder.load_state_dict(weights, assign=True)
    dtype = place("cpu", precision).encoder_dtype
    encoder.eval().requires_grad_(requires_grad=False).to(dtype)
    encoder.to(memory_format=torch.channels_last)

    def encode(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return encoder(pixels.to(dtype))[0].float()

    return encode


def ours_by(engine: str, weights: dict[str, Tensor], *, precision: str) -> Encode:
    """Return our encoder as `load_model(engine=..., precision=...)` runs it."""
    with torch.device("meta"):
        network = build_model("sam_vit_b")
    encoder = network.image_encoder
    encoder.load_state_dict(weights, assign=True)
    encoder.eval().requires_grad_(requires_grad=False)
    placement = place("cpu", precision)
    digest = hashlib.sha256(next(iter(weights.values())).numpy().tobytes()).hexdigest()
    use_engine(engine, network, card=ModelCard("sam_vit_b", digest), placement=placement)
    encode = network.image_encoder.to(placement.encoder_dtype, memory_format=torch.channels_last)

    def encode_image(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return encode(pixels.to(placement.encoder_dtype))[0].float()

    return encode_image


def theirs(weights: dict[str, Tensor], *, dtype: torch.dtype) -> Encode:
    """Return transformers' encoder with its default attention."""
    from transformers import SamVisionConfig
    from transformers.models.sam.modeling_sam import SamVisionModel

    with torch.device("meta"):
        model = SamVisionModel(SamVisionConfig())
    model.vision_encoder.load_state_dict({their_key(k): v for k, v in weights.items()}, assign=True)
    model.eval().requires_grad_(requires_grad=False).to(dtype)

    def encode(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(pixels.to(dtype)).last_hidden_state.float()

    return encode


CONTESTANTS: dict[str, Callable[[dict[str, Tensor]], Encode]] = {
    "ours, default": lambda weights: ours(weights, precision="auto"),
    "ours, float32": lambda weights: ours(weights, precision="reproducible"),
    BASELINE: lambda weights: theirs(weights, dtype=torch.float32),
    "transformers, bfloat16": lambda weights: theirs(weights, dtype=torch.bfloat16),
}
if find_spec("openvino") is not None:
    CONTESTANTS["ours, openvino"] = lambda weights: ours_by("openvino", weights, precision="auto")
    CONTESTANTS["ours, openvino, float32"] = lambda weights: ours_by("openvino", weights, precision="float32")


def random_weights() -> dict[str, Tensor]:
    """Return random weights under released keys, of the position tables too: they start at zero, and would hide."""
    torch.manual_seed(0)
    encoder = VitEncoder(VIT["vit_b"])
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "pos" in name:
                parameter.normal_(std=0.2)
    return {PREFIX + name: tensor for name, tensor in encoder.state_dict().items()}


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """Return the encoder's part of a file."""
    found = read_weights(path)
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


def pixels_of_image() -> Tensor:
    """Return (1, 3, 1024, 1024) normalised pixels of a phase contrast image that scikit-image carries in its wheel."""
    from skimage.data import cell

    image = torch.from_numpy(cell()).float()[None, None, :550, :550]
    frame = interpolate(image, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (frame.expand(1, 3, SIDE, SIDE) - mean) / std


def measure(contestants: list[Contestant], *, rounds: int) -> None:
    """Fill in the times: in each round, all encode once, in turn; the first does not count."""
    pixels = pixels_of_image()
    for round_ in range(rounds + 1):
        for contestant in contestants:
            start = time.perf_counter()
            contestant.embedding = contestant.encode(pixels)
            if round_ > 0:
                contestant.seconds.append(time.perf_counter() - start)


def masks_of(embedding: Tensor, *, model: Promptable) -> Tensor:
    """Return the (64, 4, 256, 256) masks of an 8 x 8 grid of clicks."""
    lines = (torch.arange(8) + 0.5) * (SIDE / 8)
    xy = torch.cartesian_prod(lines, lines)[:, None]  # (64, 1, 2)
    with torch.inference_mode():
        labels = torch.ones(len(xy), 1, dtype=torch.long)
        return model.decode_all(ImageFeatures(embedding), xy, labels).logits > 0


def decoder(weights: Path | None) -> Promptable:
    """Return a SAM for its decoder, random where there are no weights: one for all contestants, in float32."""
    torch.manual_seed(1)
    model = build_model("sam_vit_b").eval()
    if weights is not None:
        load_strictly(model, read_weights(weights), where=str(weights), key_map=released_key)
    return model


def iou(masks: Tensor, reference: Tensor) -> float:
    """Return the mean intersection over union of masks, of those that either side has."""
    inside = (masks & reference).sum(dim=(2, 3)).double()
    either = (masks | reference).sum(dim=(2, 3)).double()
    return float((inside[either > 0] / either[either > 0]).mean())


def peak_mib(name: str, *, weights: Path, threads: int) -> int:
    """Return the peak resident memory of one contestant alone, in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--weights", str(weights), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.splitlines()[-1]))


def encode_alone(name: str, *, weights: Path) -> None:
    """Encode twice and print the peak resident memory in MiB, for `peak_mib`."""
    encode = CONTESTANTS[name](encoder_weights(weights))
    pixels = pixels_of_image()
    for _ in range(2):
        encode(pixels)
    print(own_peak_mib())


def own_peak_mib() -> float:
    """Return this process's peak resident memory; getrusage would give its parent's, where that is larger."""
    status = Path("/proc/self/status")
    if not status.exists():
        raise SystemExit(
            "peak memory is read from /proc, which only Linux has; run there, or with --no-memory"
        )
    lines = dict(line.split(":", maxsplit=1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def report(arguments: argparse.Namespace) -> dict[str, Any]:  # JSON
    """Measure everything and return what there is to say."""
    with TemporaryDirectory() as scratch:
        os.environ[CACHE_VARIABLE] = scratch  # what an engine keeps
        path = arguments.weights
        if path is None:
            path = Path(scratch) / "random.safetensors"
            save_file(random_weights(), path)
        weights = encoder_weights(path)
        entered = [Contestant(name, make(weights)) for name, make in CONTESTANTS.items()]
        measure(entered, rounds=arguments.rounds)
        peaks: dict[str, int | None] = dict.fromkeys(CONTESTANTS)
        if not arguments.no_memory:
            peaks = {name: peak_mib(name, weights=path, threads=arguments.threads) for name in CONTESTANTS}
    by_name = {one.name: one for one in entered}
    base = by_name[BASELINE]
    model = decoder(arguments.weights)
    reference = masks_of(base.embedding, model=model)
    return {
        "model": "SAM ViT-B",
        "image": [SIDE, SIDE],
        "weights": "random" if arguments.weights is None else arguments.weights.name,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "has_amx": bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()),
        "default": str(place("cpu", "auto").encoder_dtype),
        "baseline": BASELINE,
        "rows": [
            {
                "name": one.name,
                "seconds": round(statistics.median(one.seconds), 3),
                "seconds_min": round(min(one.seconds), 3),
                "speedup": round(statistics.median(base.seconds) / statistics.median(one.seconds), 2),
                "peak_mib": peaks[one.name],
                "embedding_error": round(
                    float((one.embedding - base.embedding).norm() / base.embedding.norm()), 7
                ),
                "mask_iou": round(iou(masks_of(one.embedding, model=model), reference), 4),
            }
            for one in entered
        ],
    }


def print_table(result: dict[str, Any]) -> None:  # JSON
    """Print the report as one table."""
    print(
        f"SAM ViT-B, {SIDE} x {SIDE}, {result['weights']} weights, {result['threads']} threads, "
        f"medians of {result['rounds']} rounds; default is {result['default']}, AMX: {result['has_amx']}"
    )
    print(
        f"{'encoder':<24} {'s':>7} {'x':>6} {'peak MiB':>9} {'error':>9} {'mask IoU':>9}   (x: times faster)"
    )
    for row in result["rows"]:
        print(
            f"{row['name']:<24} {row['seconds']:>7.2f} {row['speedup']:>6.2f} {row['peak_mib'] or '-':>9} "
            f"{row['embedding_error']:>9.1e} {row['mask_iou']:>9.4f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="a released SAM ViT-B, in place of random weights")
    parser.add_argument(
        "--only", choices=tuple(CONTESTANTS), help="print the peak memory of one encoder, in MiB"
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        encode_alone(arguments.only, weights=arguments.weights)
        return
    result = report(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
