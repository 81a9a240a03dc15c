"""How long a click takes: our models beside transformers' SAM 2 tiny, on the same image, in the same run.

`python benchmarks/image.py [--rounds N] [--threads N] [--json]`. README.md beside it says what is compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from napari_segany.core.types import Points, Prompt
from napari_segany.models.sam2 import build_sam2
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import load_model

BASELINE = "transformers SAM 2 tiny, float32"
SIDE = 512  # pixels of the image
CLICK = (256.0, 256.0)  # row, col
FRAME = 1024  # pixels of the frame that SAM 2 stretches it to
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Image = NDArray[np.uint8]


@dataclass
class Contestant:
    """A model: `embed` turns an (H, W) image into features, `click` those into (M, H, W) masks."""

    name: str
    embed: Callable[[Image], Any]  # Any: each model's own features
    click: Callable[[Any], NDArray[np.bool_]]
    embed_ms: list[float] = field(default_factory=list)
    click_ms: list[float] = field(default_factory=list)


def sample_image() -> Image:
    """Return a (512, 512) uint8 part of the phase contrast image that scikit-image carries in its wheel."""
    from skimage.data import cell

    image = cell()
    return np.ascontiguousarray(np.pad(image, ((0, max(0, SIDE - image.shape[0])), (0, 0)))[:SIDE, :SIDE])


def ours(name: str, *, precision: str, weights: Path | None = None) -> Contestant:
    """Return one of our models as a session uses it, with the `weights` of a file if given."""
    predictor = ImagePredictor(load_model(weights or name, device="cpu", precision=precision))
    prompt = Prompt(points=Points(np.array([CLICK], dtype=np.float32), np.array([True])))
    return Contestant(
        f"{name}, {precision}",
        predictor.embed,
        lambda features: predictor.predict(features, prompt).masks,
    )


def random_weights(name: str, *, folder: Path) -> Path:
    """Write random weights of a model to a file in `folder`: its time does not depend on their values."""
    path = folder / f"{name}.safetensors"
    save_file(build_sam2(name).state_dict(), path)
    return path


def theirs(*, dtype: torch.dtype) -> Contestant:
    """Return transformers' SAM 2 tiny with random weights: its time does not depend on their values."""
    from transformers import Sam2Config, Sam2Model

    model = Sam2Model(Sam2Config()).eval()
    points = torch.tensor([[[[CLICK[1], CLICK[0]]]]]) * (FRAME / SIDE)
    labels = torch.ones(1, 1, 1, dtype=torch.long)

    def embed(image: Image) -> list[torch.Tensor]:
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return model.get_image_embeddings(_frame_of(image))

    def click(features: list[torch.Tensor]) -> NDArray[np.bool_]:
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            answer = model(image_embeddings=features, input_points=points, input_labels=labels)
        logits = answer.pred_masks[0].float()  # (1, 3, 256, 256)
        masks = interpolate(logits, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[0] > 0
        return masks.numpy()

    return Contestant(f"transformers SAM 2 tiny, {str(dtype).removeprefix('torch.')}", embed, click)


def _frame_of(image: Image) -> torch.Tensor:
    """Return (1, 3, 1024, 1024) normalised pixels of a grey image, stretched to SAM 2's frame."""
    rgb = torch.from_numpy(image).float().div(255).expand(1, 3, *image.shape)
    frame = interpolate(rgb, size=(FRAME, FRAME), mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (frame - mean) / std


def measure(contestants: list[Contestant], *, rounds: int) -> None:
    """Fill in the times: in each round, all encode and answer once, in turn; the first does not count."""
    image = sample_image()
    for round_ in range(rounds + 1):
        for contestant in contestants:
            start = time.perf_counter()
            features = contestant.embed(image)
            embedded = time.perf_counter()
            masks = contestant.click(features)
            answered = time.perf_counter()
            assert masks.shape == (3, SIDE, SIDE), (contestant.name, masks.shape)
            if round_ > 0:
                contestant.embed_ms.append(1000 * (embedded - start))
                contestant.click_ms.append(1000 * (answered - embedded))


def report(contestants: list[Contestant], *, threads: int, rounds: int) -> dict[str, Any]:  # JSON
    """Return the medians, and how many times faster than the baseline each contestant is."""
    medians = {
        one.name: (statistics.median(one.embed_ms), statistics.median(one.click_ms)) for one in contestants
    }
    base = medians[BASELINE]
    return {
        "image": [SIDE, SIDE],
        "threads": threads,
        "rounds": rounds,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "baseline": BASELINE,
        "rows": [
            {
                "name": one.name,
                "embed_ms": round(medians[one.name][0], 2),
                "click_ms": round(medians[one.name][1], 2),
                "embed_min_ms": round(min(one.embed_ms), 2),
                "click_min_ms": round(min(one.click_ms), 2),
                "embed_speedup": round(base[0] / medians[one.name][0], 2),
                "click_speedup": round(base[1] / medians[one.name][1], 2),
            }
            for one in contestants
        ],
    }


def print_table(result: dict[str, Any]) -> None:  # JSON
    """Print the medians as one table."""
    print(f"{SIDE} x {SIDE} image, {result['threads']} threads, medians of {result['rounds']} rounds")
    print(f"{'model':<36} {'embed ms':>9} {'click ms':>9} {'embed x':>8} {'click x':>8}   (x: times faster)")
    for row in result["rows"]:
        print(
            f"{row['name']:<36} {row['embed_ms']:>9.1f} {row['click_ms']:>9.1f} "
            f"{row['embed_speedup']:>8.1f} {row['click_speedup']:>8.1f}"
        )


def contestants(arguments: argparse.Namespace) -> list[Contestant]:
    """Return who takes part, ours first."""
    precisions = ("bfloat16", "float32")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        own = random_weights(arguments.model, folder=folder) if arguments.random else None
        entered = [ours(arguments.model, precision=precision, weights=own) for precision in precisions]
        if arguments.hiera:
            tiny = random_weights("sam2_hiera_tiny", folder=folder)
            entered += [
                ours("sam2_hiera_tiny", precision=precision, weights=tiny) for precision in precisions
            ]
    return [*entered, theirs(dtype=torch.bfloat16), theirs(dtype=torch.float32)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="sam2-nano", help="a name of `segany models`")
    parser.add_argument("--random", action="store_true", help="give it random weights, in place of its own")
    parser.add_argument(
        "--hiera", action="store_true", help="also time our own SAM 2 tiny, with random weights"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    entered = contestants(arguments)
    measure(entered, rounds=arguments.rounds)
    result = report(entered, threads=arguments.threads, rounds=arguments.rounds)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
