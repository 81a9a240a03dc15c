"""What six granularities cost: Semantic-SAM Swin-T beside SAM ViT-B, and deformable attention beside a plain loop.

`python benchmarks/semantic.py [--rounds N] [--threads N] [--no-memory] [--json]`. README.md beside it says more.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from encoder import own_peak_mib
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_segany.core.types import ModelCard, Points, Prompt
from napari_segany.models.build import build_model
from napari_segany.models.deformable import DeformableAttention, DeformableConfig, Sizes
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import assemble
from napari_segany.predict.precision import place

SEMANTIC, BASELINE = "semantic_sam_swinT", "sam_vit_b"
MASKS = {SEMANTIC: 6, BASELINE: 3}  # of one click
PRECISIONS = ("auto", "float32")
CLICKS = ((256.0, 256.0), (100.0, 300.0), (400.0, 120.0), (60.0, 60.0))  # row, col
LEVELS: Sizes = [(80, 108), (40, 54), (20, 27), (10, 14)]  # of a 640 x 864 frame: strides 8, 16, 32, 64
WIDTH = 256
PROMPTS = (1, 32)  # of six queries each


@dataclass
class Contestant:
    """A model at work: `embed` gives features, `click` masks (M, H, W)."""

    name: str
    predictor: ImagePredictor
    embed_ms: list[float] = field(default_factory=list)
    click_ms: list[float] = field(default_factory=list)


@dataclass
class Reading:
    """One size of deformable attention: both ways to it, their times, and what they read."""

    name: str
    ways: dict[str, Callable[[], Tensor]]
    ms: dict[str, list[float]] = field(default_factory=lambda: {"ours": [], "loop": []})


def sample_image() -> NDArray[np.uint8]:
    """Return the (660, 550) uint8 phase contrast image that scikit-image carries in its wheel."""
    from skimage.data import cell

    return cell()


def contestant(name: str, *, precision: str) -> Contestant:
    """Return a model with random weights: its time does not depend on their values."""
    torch.manual_seed(1)
    placement = place("cpu", precision)
    weights = build_model(name).state_dict()
    model = assemble(ModelCard(name, "random"), weights, placement=placement, where="random weights")
    return Contestant(_entered(name, precision), ImagePredictor(model))


def _entered(name: str, precision: str) -> str:
    return f"{name}, {'default' if precision == 'auto' else precision}"


def measure(contestants: list[Contestant], *, rounds: int) -> None:
    """Fill in the times: in each round, all encode and answer the same clicks, in turn; the first does not count."""
    image = sample_image()
    prompts = [Prompt(points=Points(np.array([at], dtype=np.float32), np.array([True]))) for at in CLICKS]
    for round_ in range(rounds + 1):
        for one in contestants:
            start = time.perf_counter()
            features = one.predictor.embed(image)
            embedded = time.perf_counter()
            for prompt in prompts:
                answer = one.predictor.predict(features, prompt)
                assert answer.masks.shape == (MASKS[one.name.partition(",")[0]], *image.shape)
            answered = time.perf_counter()
            if round_ > 0:
                one.embed_ms.append(1000 * (embedded - start))
                one.click_ms.append(1000 * (answered - embedded) / len(prompts))


def read_in_a_loop(
    attention: DeformableAttention, queries: Tensor, boxes: Tensor, cells: Tensor, sizes: Sizes
) -> Tensor:
    """Return what (B, Q, C) queries read of (B, S, C) cells as the papers have it: `grid_sample`, level by level."""
    config = attention.config
    shape = (*queries.shape[:2], config.heads, config.levels, config.points)
    offsets = attention.sampling_offsets(queries).view(*shape, 2)
    weights = attention.attention_weights(queries).view(*shape[:3], -1).softmax(dim=3)
    if boxes.shape[-1] == 2:
        sides = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)
        places = boxes[:, :, None, None, None] + offsets / sides[:, None]
    else:
        centres, extents = boxes[:, :, None, None, None, :2], boxes[:, :, None, None, None, 2:]
        places = centres + offsets / config.points * extents * 0.5
    values = attention.value_proj(cells).unflatten(2, (config.heads, -1))  # (B, S, heads, d)
    read = []
    parts = values.split([height * width for height, width in sizes], dim=1)
    for level, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, size)  # (B * heads, d, h, w)
        grid = (2 * places[:, :, :, level] - 1).transpose(1, 2).flatten(0, 1)  # (B * heads, Q, points, 2)
        read.append(F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    shares = weights.transpose(1, 2).flatten(0, 1)[:, None]  # (B * heads, 1, Q, levels * points)
    mixed = (torch.cat(read, dim=3) * shares).sum(dim=3)  # (B * heads, d, Q)
    return attention.output_proj(mixed.unflatten(0, (-1, config.heads)).flatten(1, 2).transpose(1, 2))


def readings() -> dict[str, Reading]:
    """Return deformable attention at the sizes of the pixel decoder and of the query decoder, by name."""
    torch.manual_seed(2)
    attention = DeformableAttention(WIDTH, DeformableConfig()).eval()
    for layer in (attention.sampling_offsets, attention.attention_weights):
        nn.init.normal_(layer.weight, std=WIDTH**-0.5)  # as after training: places and weights that differ
    cells = torch.randn(1, sum(height * width for height, width in LEVELS), WIDTH)
    centres = torch.cat([_centres(size) for size in LEVELS])[None]
    found = {"pixel decoder": _reading("pixel decoder", attention, cells, centres, cells)}
    for count in PROMPTS:
        place, extent = torch.rand(1, 6 * count, 2), 0.02 + 0.5 * torch.rand(1, 6 * count, 2)
        name = f"query decoder, {count} click{'s' if count > 1 else ''}"
        queries = torch.randn(1, 6 * count, WIDTH)
        boxes = torch.cat((place, extent), dim=2)
        found[name] = _reading(name, attention, queries, boxes, cells)
    return found


def _reading(
    name: str, attention: DeformableAttention, queries: Tensor, boxes: Tensor, cells: Tensor
) -> Reading:
    """Return both ways at one size; ours reads a whole layer's queries as the decoders do."""
    return Reading(
        name,
        {
            "ours": lambda: attention(queries, boxes, cells, LEVELS),
            "loop": lambda: read_in_a_loop(attention, queries, boxes, cells, LEVELS),
        },
    )


def _centres(size: tuple[int, int]) -> Tensor:
    """Return the (h * w, 2) centres (x, y) of a map's cells, as shares of it."""
    y, x = ((torch.arange(side) + 0.5) / side for side in size)
    return torch.stack((x.expand(size[0], -1), y[:, None].expand(-1, size[1])), dim=2).flatten(0, 1)


@torch.inference_mode()
def measure_readings(entered: dict[str, Reading], *, rounds: int) -> list[dict[str, Any]]:
    """Return the times of both ways at each size, in turn, and how far apart what they read is."""
    rows = []
    for one in entered.values():
        for round_ in range(3 * rounds + 1):  # short, so more of them; the first does not count
            for way, read in one.ways.items():
                start = time.perf_counter()
                read()
                if round_ > 0:
                    one.ms[way].append(1000 * (time.perf_counter() - start))
        ours, loop = one.ways["ours"](), one.ways["loop"]()
        ms = {way: statistics.median(times) for way, times in one.ms.items()}
        rows.append(
            {
                "name": one.name,
                "queries": ours.shape[1],
                "ours_ms": round(ms["ours"], 2),
                "loop_ms": round(ms["loop"], 2),
                "speedup": round(ms["loop"] / ms["ours"], 2),
                "max_difference": float((ours - loop).abs().max()),
                "scale": round(float(loop.abs().max()), 2),
            }
        )
    return rows


def report(arguments: argparse.Namespace) -> dict[str, Any]:  # JSON
    """Measure everything and return what there is to say."""
    rows = measure_readings(readings(), rounds=arguments.rounds)
    entered = [contestant(name, precision=p) for name in (SEMANTIC, BASELINE) for p in PRECISIONS]
    measure(entered, rounds=arguments.rounds)
    base = next(one for one in entered if one.name == _entered(BASELINE, "float32"))
    base_ms = statistics.median(base.embed_ms), statistics.median(base.click_ms)
    models = []
    for one in entered:
        embed, click = statistics.median(one.embed_ms), statistics.median(one.click_ms)
        models.append(
            {
                "name": one.name,
                "embed_ms": round(embed, 1),
                "embed_speedup": round(base_ms[0] / embed, 2),
                "click_ms": round(click, 1),
                "click_speedup": round(base_ms[1] / click, 2),
            }
        )
    del entered, base
    if not arguments.no_memory:
        for row in models:
            row["peak_mib"] = peak_mib(row["name"], threads=arguments.threads)
        for row in rows:
            for way in ("ours", "loop"):
                row[f"{way}_peak_mib"] = peak_mib(f"{row['name']}/{way}", threads=arguments.threads)
    return {
        "image": list(sample_image().shape),
        "levels": [list(size) for size in LEVELS],
        "weights": "random",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "default": str(place("cpu", "auto").encoder_dtype),
        "baseline": _entered(BASELINE, "float32"),
        "models": models,
        "deformable": rows,
    }


def peak_mib(name: str, *, threads: int) -> int:
    """Return the peak resident memory of one contestant alone, in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.splitlines()[-1]))


@torch.inference_mode()
def run_alone(name: str) -> None:
    """Let one contestant work twice and print the peak resident memory in MiB, for `peak_mib`."""
    reading, _, way = name.partition("/")
    if way:
        read = readings()[reading].ways[way]
        read(), read()
    else:
        model, _, precision = name.partition(", ")
        one = contestant(model, precision="auto" if precision == "default" else precision)
        measure([one], rounds=1)
    print(own_peak_mib())


def print_tables(result: dict[str, Any]) -> None:  # JSON
    """Print both parts as text."""
    height, width = result["image"]
    print(
        f"{height} x {width} image, random weights, {result['threads']} threads, medians of {result['rounds']} "
        f"rounds; default is {result['default']}; x: times faster than {result['baseline']}"
    )
    print(f"{'':<30} {'encode ms':>10} {'x':>6} {'click ms':>9} {'x':>6} {'peak MiB':>9}")
    for row in result["models"]:
        print(
            f"{row['name']:<30} {row['embed_ms']:>10.1f} {row['embed_speedup']:>6.2f} {row['click_ms']:>9.1f} "
            f"{row['click_speedup']:>6.2f} {row.get('peak_mib', '-'):>9}"
        )
    print(f"\ndeformable attention, levels {result['levels']}, float32; x: times faster than the loop")
    print(
        f"{'':<26} {'queries':>8} {'ours ms':>9} {'loop ms':>9} {'x':>6} {'difference':>11} {'of':>6} "
        f"{'peak MiB':>9} {'loop MiB':>9}"
    )
    for row in result["deformable"]:
        print(
            f"{row['name']:<26} {row['queries']:>8} {row['ours_ms']:>9.2f} {row['loop_ms']:>9.2f} "
            f"{row['speedup']:>6.2f} {row['max_difference']:>11.1e} {row['scale']:>6.2f} "
            f"{row.get('ours_peak_mib', '-'):>9} {row.get('loop_peak_mib', '-'):>9}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="print the peak memory of one row, in MiB")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the tables")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        run_alone(arguments.only)
        return
    result = report(arguments)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_tables(result)


if __name__ == "__main__":
    main()
