"""`segany scenes`, `segany train`, `segany evaluate`: thin; the work is in `napari_segany.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .evaluation_page import Asked, write_page
from .nested_evaluation import evaluate_scenes
from .video_evaluation import evaluate_clips

if TYPE_CHECKING:
    from napari_segany.train.loop import StepReport
    from napari_segany.train.results import Evaluation

_INTERRUPTED = 130  # what shells call a process that Ctrl+C ended
_MEASURES = ("objects", "click1", "click3", "click5", "box", "best_of_3", "boundary_iou", "box_boundary_iou")


def scenes(
    *,
    out: Annotated[Path, typer.Option(help="Folder to write images/ and labels/ into.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same scenes.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Side in pixels.")] = 256,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Kinds in turn, comma-separated; `thin` for those with thin structures; all if left out."
        ),
    ] = None,
) -> None:
    """Write procedural microscopy scenes with exact masks, to train or evaluate on."""
    from napari_segany.train.scenes import KINDS, THIN_KINDS, export_scenes

    chosen = KINDS if kinds is None else THIN_KINDS if kinds == "thin" else tuple(kinds.split(","))
    export_scenes(out, count=count, seed=seed, size=(size, size), kinds=chosen)
    typer.echo(f"{count} scenes: {out.resolve()}")


def train(
    *,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, curve and the best weights.")],
    recipe: Annotated[str, typer.Option(help="Name of the model that the recipe makes.")] = "sam2-nano",
    data: Annotated[
        Path | None, typer.Option(help="Folder with images/ and labels/; scenes alone if left out.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights file of the same model to begin with, instead of with nothing."),
    ] = None,
    stage: Annotated[
        int, typer.Option(min=1, help="With --weights: the stage of the recipe to begin at.")
    ] = 1,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Shorten the recipe to about this many steps.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 500,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Train a model by a recipe, from scenes and, where given, a folder of images and labels."""
    from napari_segany.train.recipes import recipe_of
    from napari_segany.train.run import export_weights, run_training

    chosen = recipe_of(recipe) if steps is None else recipe_of(recipe).shortened(steps)
    typer.echo(f"{'step':>12} {'loss':>8} {'rate':>9} {'minutes':>8}  validation")
    reports = run_training(
        chosen,
        data=data,
        folder=out,
        device=device,
        is_resumed=resume,
        weights=weights,
        stage=stage,
        every=every,
    )
    try:
        for report in reports:
            typer.echo(_line(report))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command with --resume goes on from the last checkpoint", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    best = out / f"{chosen.name}.safetensors"
    export_weights(out, best, recipe=chosen)
    typer.echo(f"best weights: {best.resolve()}\ncurve:        {(out / 'curve.svg').resolve()}")


def _line(report: StepReport) -> str:
    """Return one row of the live table."""
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in report.metrics.items())
    done = f"{report.step}/{report.of_steps}"
    return f"{done:>12} {report.loss:8.4f} {report.rate:9.2e} {report.seconds / 60:8.1f}  {metrics}".rstrip()


def evaluate(
    *,
    data: Annotated[
        Path | None, typer.Option(help="Folder with images/ and labels/, files of the same names.")
    ] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Follow objects through procedural movies and stacks instead.")
    ] = False,
    nested: Annotated[
        bool, typer.Option("--nested", help="Click on objects within objects, in procedural scenes, instead.")
    ] = False,
    model: Annotated[str, typer.Option(help="A name from `segany models`, or a weights file.")] = "sam2-nano",
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write a page to: everything that the model can do, with pictures. Goes on where it stopped."
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(
            help="With --report: only some of images, scenes, thin, nested, finding, video, real; comma-separated."
        ),
    ] = None,
    scenes: Annotated[
        int | None, typer.Option(min=1, help="With --nested (104) or --report: how many, kinds in turn.")
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="With --video or --report: how many, movies and stacks by turns.")
    ] = 40,
    seed: Annotated[int, typer.Option(min=0, help="With --video, --nested or --report: of the first.")] = 0,
    corrections: Annotated[
        int, typer.Option(min=0, help="With --video or --report: how often each object is corrected.")
    ] = 3,
    clicks: Annotated[
        int, typer.Option(min=1, help="With --video: the most clicks of one correction, all on one frame.")
    ] = 3,
    split: Annotated[
        Literal["all", "validation", "training"],
        typer.Option(help="Which of the images; training holds back a fifth for validation."),
    ] = "all",
    most_objects: Annotated[
        int | None,
        typer.Option(min=1, help="At most this many objects of an image or clip; all, or 6, if left out."),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another model, measured on the same objects; its gain is printed.")
    ] = None,
    fine: Annotated[
        bool | None, typer.Option("--fine/--no-fine", help="Fine boundaries of HQ models; on if left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, reproducible, bfloat16 or float16.")] = "auto",
) -> None:
    """Measure a model: clicks and boxes, following with --video, what a click lies in with --nested; or all of it."""
    common: dict[str, Any] = {"as_json": as_json, "device": device, "precision": precision}
    if report is not None:
        if video or nested:
            raise typer.BadParameter("--report measures all parts; choose some of them with --parts")
        asked = Asked(parts, data, scenes, clips, most_objects, corrections, seed)
        write_page(model, report, asked=asked, against=against, **common)
        return
    if parts is not None:
        raise typer.BadParameter("--parts goes with --report")
    if nested:
        if data is not None or video:
            raise typer.BadParameter("--nested renders its own scenes; leave --data and --video out")
        count = 104 if scenes is None else scenes
        evaluate_scenes(model, scenes=count, seed=seed, against=against, **common)
        return
    if video:
        if data is not None or against is not None:
            raise typer.BadParameter(
                "--video renders its own clips, of one model; leave --data and --against out"
            )
        evaluate_clips(
            model,
            clips=clips,
            seed=seed,
            corrections=corrections,
            clicks=clicks,
            most_objects=most_objects,
            **common,
        )
        return
    if data is None:
        raise typer.BadParameter(
            "say what to measure on: --data FOLDER with images/ and labels/, --video or --nested"
        )
    evaluate_images(
        model,
        data,
        split=split,
        most_objects=most_objects,
        against=against,
        fine=fine,
        **common,
    )


def evaluate_images(
    model: str,
    data: Path,
    *,
    split: str,
    most_objects: int | None,
    against: str | None,
    fine: bool | None,
    as_json: bool,
    device: str,
    precision: str,
) -> None:
    """Measure one model or two on labelled images, and print the results."""
    from napari_segany.predict.image import ImagePredictor
    from napari_segany.predict.loading import load_model
    from napari_segany.train.metrics import evaluate_folder

    def measured(name: str, *, use: bool | None) -> Evaluation:
        predictor = ImagePredictor(load_model(name, device=device, precision=precision))
        result = evaluate_folder(
            predictor, data, split=split, most_objects=most_objects, fine=use, progress=_show_progress
        )
        typer.echo(err=True)
        return result

    result = measured(model, use=fine)
    other = None if against is None else measured(against, use=None)
    if as_json:
        both = result.as_dict() if other is None else {"model": result.as_dict(), "against": other.as_dict()}
        typer.echo(json.dumps(both))
        return
    typer.echo(_table(result))
    if other is not None:
        typer.echo("\n" + _table(other))
        typer.echo("\n" + _gain(result, other))


def _gain(result: Evaluation, other: Evaluation) -> str:
    """Return how many points a model is above another, measure by measure."""
    ours, theirs = result.as_dict(), other.as_dict()
    gains = [
        f"{measure} {100 * (float(str(ours[measure])) - float(str(theirs[measure]))):+.1f}"
        for measure in _MEASURES[1:]
    ]
    return f"{result.model} above {other.model}, in points: {', '.join(gains)}"


def _show_progress(done: int, name: str) -> None:
    """Rewrite one line of the terminal."""
    typer.echo(f"\r{done} images, last {name:<40.40}", err=True, nl=False)


def _table(result: Evaluation) -> str:
    """Return the measures of all objects, by size and by modality, as aligned text."""
    whole = result.as_dict()
    rows: list[tuple[str, dict[str, float]]] = [(f"{result.model}, {result.images} images", whole)]  # type: ignore[list-item]  # its measures are numbers
    for group in ("by_size", "by_modality"):
        rows += whole[group].items()  # type: ignore[attr-defined]  # a table of such rows
    width = max(len(name) for name, _ in rows)
    lines = [" " * width + "".join(f"{measure:>17}" for measure in _MEASURES)]
    for name, values in rows:
        lines.append(name.ljust(width) + "".join(f"{_shown(values[m]):>17}" for m in _MEASURES))
    return "\n".join(lines)


def _shown(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
