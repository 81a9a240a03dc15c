"""`segany demo`: segment real microscopy images by clicks and boxes, and show the result."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True)
class Sample:
    """An image that scikit-image carries in its wheel, and where a person would click or draw boxes."""

    name: str
    title: str
    points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()


SAMPLES = (
    Sample("cell", "a cell in quantitative phase contrast", points=("374,427",)),
    Sample(
        "immunohistochemistry",
        "colon glands, immunohistochemistry",
        points=("400,318 312,262,- 500,262,- 500,374,- 310,372,-; 50,485; 280,489; 359,189; 381,195",),
        boxes=("302,256,508,380; 32,479,68,491; 262,481,300,497; 346,183,372,195; 373,189,389,200",),
    ),
)


def demo(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="A name from `segany models`, or a weights file.")] = "sam2-nano",
    fine: Annotated[
        bool | None,
        typer.Option("--fine/--no-fine", help="Fine boundaries; left out, as the model is made."),
    ] = None,
    no_window: Annotated[
        bool, typer.Option("--no-window", help="Do not open napari, even with a display.")
    ] = False,
) -> None:
    """Segment two real microscopy images, by clicks and boxes; with a display, open napari on them."""
    out.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLES:
        typer.echo(f"{sample.title}:")
        _segment(sample, out=out, model=model, fine=fine)
    if not no_window:
        _open_napari(out)


def _segment(sample: Sample, *, out: Path, model: str, fine: bool | None) -> None:
    """Segment one sample and say what came out and where it is."""
    import skimage.data

    from napari_segany.io.exports import save_picture

    from .task import Task, run

    stem = out.resolve() / sample.name
    image = save_picture(f"{stem}.png", getattr(skimage.data, sample.name)())
    labels, overlay = Path(f"{stem}.ome.zarr"), Path(f"{stem}-overlay.png")
    task = Task(
        image,
        labels,
        points=sample.points,
        boxes=sample.boxes,
        overlay=overlay,
        model=model,
        fine=fine,
        overwrite=True,
    )
    made, refused = run(task)
    for one in made:
        typer.echo(f"  object {one.label}: {one.area} pixels, score {one.score:.2f}")
    for line in refused:
        typer.echo(f"  {line}")
    typer.echo(f"  image    {image}\n  labels   {labels}\n  picture  {overlay}")


def _open_napari(out: Path) -> None:
    """Open napari on the first sample, or say why not."""
    names = ("DISPLAY", "WAYLAND_DISPLAY")
    if sys.platform == "linux" and not any(os.environ.get(name) for name in names):
        typer.echo("no display: napari was not opened; the pictures above show the result")
        return
    if find_spec("napari") is None or not any(find_spec(name) for name in ("PySide6", "PyQt6")):
        typer.echo('to see this in napari: pip install "napari-segany[all]", and run it again')
        return
    stem = out.resolve() / SAMPLES[0].name
    files = (f"{stem}.png", f"{stem}.ome.zarr")
    typer.echo(f"opening napari on {' and '.join(files)}")
    # Another process: the command line knows nothing of windows, and outlives one that fails to open.
    done = subprocess.run([sys.executable, "-m", "napari_segany.ui.show", *files], check=False)
    if done.returncode:
        typer.echo("napari did not open; `segany doctor` says what is missing", err=True)
