"""The whole evaluation of a model, part by part, in a folder: numbers as JSON, pictures as PNG.

Each part is written when it is done, so that what was cut short goes on where it stopped; a part of other weights or
other settings is measured anew.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from napari_segany.core.errors import CapabilityError, DataError, SettingsError
from napari_segany.predict.finders import finder_of
from napari_segany.predict.generic import GenericSegmenter, finds_hearts
from napari_segany.predict.image import ImagePredictor
from napari_segany.predict.loading import Model
from napari_segany.predict.video import VideoPredictor

from .cases import Case, draw_cases, pick
from .dataset import Annotated, is_validation, read_folder
from .finding_metrics import evaluate_finding
from .metrics import evaluate, validation_scenes
from .nested_metrics import evaluate_found, evaluate_nested, nested_scenes
from .real_images import draw_real
from .scenes import THIN_KINDS
from .video_metrics import evaluate_video, validation_clips

PARTS = ("images", "scenes", "thin", "nested", "finding", "video", "real")
RESULT = "evaluation.json"
PICTURES = "pictures"

Progress = Callable[[int, str], None]
"""Called with (done, name) after each image, scene or clip."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is measured, and on how much.

    Attributes
    ----------
    parts
        Some of `PARTS`: labelled images (those that training held back), fresh scenes, thin ones, nested ones, objects
        without prompts, following, and pictures of real images.
    data
        Folder with `images/` and `labels/`; without it there are no images to measure on.
    scenes, thin, nested, clips
        How many are rendered.
    most_objects, most_followed
        Of an image, of a clip: a fixed choice.
    corrections
        Of each object that is followed.
    seed
        Of the first scene and clip.
    """

    parts: tuple[str, ...] = PARTS
    data: Path | None = None
    scenes: int = 90
    thin: int = 40
    nested: int = 104
    clips: int = 40
    most_objects: int = 8
    most_followed: int = 6
    corrections: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise SettingsError(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
        if "images" in self.parts and self.parts != PARTS and self.data is None:
            raise SettingsError("the part images needs a folder with images/ and labels/")

    def images(self) -> Iterable[Annotated]:
        """Return the folder's images that training held back."""
        assert self.data is not None
        return (item for item in read_folder(self.data) if is_validation(item.name))


@dataclass(slots=True)
class Measured:
    """One part: its numbers, and rows of pictures by title."""

    result: dict[str, Any]
    rows: dict[str, list[Case]] = field(default_factory=dict)


def assess(
    model: Model,
    folder: Path,
    scope: Scope | None = None,
    *,
    progress: Callable[[str, int, str], None] | None = None,
) -> dict[str, Any]:
    """Measure a model and return everything as plain values, which are also in `folder/evaluation.json`.

    Parameters
    ----------
    model
        From `load_model`.
    folder
        Where numbers and pictures go; what is there of the same weights and scope is not measured again.
    progress
        Called with (part, done, name).

    Raises
    ------
    DataError
        If the data cannot be read, or hold no object.
    """
    scope = scope or Scope()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for part in scope.parts:
        if part == "images" and scope.data is None:
            continue
        key = {"weights": model.card.weights_sha256, "scope": _scope_of(part, scope)}
        known = _known(folder / f"{part}.json", key)
        if known is None:

            def told(done: int, name: str, part: str = part) -> None:
                if progress is not None:
                    progress(part, done, name)

            known = _write_part(folder, part, _MEASURES[part](model, scope, told), key)
        found[part] = {"result": known["result"], "pictures": known["pictures"]}
    whole = {"model": model.card.name, "weights": model.card.weights_sha256, "parts": found}
    _replace(folder / RESULT, whole)
    return whole


def _scope_of(part: str, scope: Scope) -> dict[str, Any]:
    """Return the settings that a part depends on."""
    needed = {
        "images": ("data", "most_objects"),
        "scenes": ("scenes", "most_objects", "seed"),
        "thin": ("thin", "most_objects", "seed"),
        "nested": ("nested", "seed"),
        "finding": ("data", "scenes", "seed"),
        "video": ("clips", "corrections", "most_followed", "seed"),
        "real": (),
    }[part]
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(scope).items()
        if name in needed
    }


def _known(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return a part that was measured before, None where there is none of these weights and this scope."""
    try:
        part: dict[str, Any] = json.loads(path.read_text())
        return part if part["key"] == key and {"result", "pictures"} <= part.keys() else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):  # cut short, or something else
        warnings.warn(f"{path} is no part of an evaluation; it is measured anew", stacklevel=3)
        return None


def _write_part(folder: Path, part: str, measured: Measured, key: dict[str, Any]) -> dict[str, Any]:
    """Write the pictures of a part, then its numbers, and return what is in the file."""
    from skimage.io import imsave

    own = folder / PICTURES / part
    shutil.rmtree(own, ignore_errors=True)
    pictures: dict[str, list[dict[str, str]]] = {}
    for row, (title, cases) in enumerate(measured.rows.items()):
        own.mkdir(parents=True, exist_ok=True)
        for place, case in enumerate(cases):
            path = own / f"{row}-{place}.png"
            imsave(path, case.picture, check_contrast=False)
            shown = {"file": path.relative_to(folder).as_posix(), "caption": case.caption}
            pictures.setdefault(title, []).append(shown)
    known = {"key": key, "result": measured.result, "pictures": pictures}
    _replace(folder / f"{part}.json", known)
    return known


def _replace(path: Path, values: object) -> None:
    """Write a JSON file beside the old one, then replace it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(values, indent=1))
    partial.replace(path)


def _prompted(
    model: Model, items: Callable[[], Iterable[Annotated]], scope: Scope, progress: Progress
) -> Measured:
    """Measure clicks, boxes and masks."""
    predictor = ImagePredictor(model)
    evaluation = evaluate(predictor, items(), most_objects=scope.most_objects, progress=progress)
    picked = pick(evaluation)
    rows = {"best": picked.best, "median": picked.median, "worst": picked.worst}
    drawn = draw_cases(predictor, items(), {o for row in rows.values() for o in row})
    return Measured(
        evaluation.as_dict(),
        {title: [drawn[o.image, o.index] for o in row] for title, row in rows.items()},
    )


def _images(model: Model, scope: Scope, progress: Progress) -> Measured:
    return _prompted(model, scope.images, scope, progress)


def _scenes(model: Model, scope: Scope, progress: Progress) -> Measured:
    return _prompted(model, lambda: validation_scenes(scope.scenes, seed=scope.seed), scope, progress)


def _thin(model: Model, scope: Scope, progress: Progress) -> Measured:
    def items() -> Iterable[Annotated]:
        return validation_scenes(scope.thin, seed=scope.seed, kinds=THIN_KINDS)

    return _prompted(model, items, scope, progress)


def _nested(model: Model, scope: Scope, progress: Progress) -> Measured:
    return Measured(nested_result(model, scenes=scope.nested, seed=scope.seed, progress=progress))


def nested_result(model: Model, *, scenes: int, seed: int, progress: Progress) -> dict[str, Any]:
    """Return what a model reaches on nested scenes; what it finds without prompts too, if it looks for hearts."""
    evaluation = evaluate_nested(ImagePredictor(model), nested_scenes(scenes, seed=seed), progress=progress)
    result = evaluation.as_dict()
    if finds_hearts(model):
        segmenter = GenericSegmenter(model)
        found = evaluate_found(lambda item: segmenter.masks(item.image), nested_scenes(scenes, seed=seed))
        result["without_prompts"] = found.as_dict()
    return result


def _finding(model: Model, scope: Scope, progress: Progress) -> Measured:
    """Measure what is found without prompts, on images if there are any, else on scenes."""
    try:
        finder = finder_of(model)
    except CapabilityError as error:
        return Measured({"left_out": str(error)})
    items = validation_scenes(scope.scenes, seed=scope.seed) if scope.data is None else scope.images()
    found = evaluate_finding(
        lambda item: finder.panoptic(item.image).labels, items, model=model.card.name, progress=progress
    )
    return Measured(found.as_dict())


def _video(model: Model, scope: Scope, progress: Progress) -> Measured:
    try:
        predictor = VideoPredictor(model)
    except CapabilityError as error:
        return Measured({"left_out": str(error)})
    clips = validation_clips(scope.clips, seed=scope.seed)
    result = evaluate_video(
        predictor, clips, corrections=scope.corrections, most_objects=scope.most_followed, progress=progress
    )
    return Measured(result.as_dict())


def _real(model: Model, scope: Scope, progress: Progress) -> Measured:
    rows: dict[str, list[Case]] = {}
    for done, (real, case) in enumerate(draw_real(ImagePredictor(model)), start=1):
        rows.setdefault(real.shows, []).append(case)
        progress(done, real.name)
    return Measured({}, rows)


_MEASURES: dict[str, Callable[[Model, Scope, Progress], Measured]] = {
    "images": _images,
    "scenes": _scenes,
    "thin": _thin,
    "nested": _nested,
    "finding": _finding,
    "video": _video,
    "real": _real,
}


def read_assessment(folder: Path) -> dict[str, Any]:
    """Return what `assess` wrote into a folder.

    Raises
    ------
    DataError
        If there is none.
    """
    try:
        whole: dict[str, Any] = json.loads((folder / RESULT).read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} holds no evaluation: {error}; make one with segany evaluate --report"
        ) from error
    return whole
