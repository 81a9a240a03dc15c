"""Segmenting a file: image and prompts in, labels and a picture out; by the same session as in a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_segany import __version__
from napari_segany.core.axes import label_axes, plane_indices, plane_of
from napari_segany.core.errors import AxesError, CapabilityError, PromptError
from napari_segany.core.intensity import Window, sample_window
from napari_segany.core.masks import LabelPatch
from napari_segany.core.types import AnyArray, ImagePredictorLike, Prompt
from napari_segany.io.exports import draw_overlay, save_picture
from napari_segany.io.features import FeatureStore
from napari_segany.io.images import open_image
from napari_segany.io.label_store import LabelStore
from napari_segany.io.opened import OpenedImage
from napari_segany.io.prompts import FramePrompts, SavedObject, check_inside, load_prompts
from napari_segany.models.download import weights_dir
from napari_segany.models.registry import list_models
from napari_segany.session.image import ImageSession

from .inline import parse_boxes, parse_points

PlaneIndex = tuple[int, ...]

_WINDOW_PLANES = 5  # planes that the intensity window of a stack is sampled from


@dataclass(frozen=True, slots=True)
class Task:
    """What to segment, with what, and where the result goes; `points` and `boxes` are texts or files."""

    image: Path
    out: Path
    points: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()
    overlay: Path | None = None
    model: str = "sam2-nano"
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    window: Window | None = None
    channel: int | None = None
    plane: Mapping[str, int] | None = None
    overwrite: bool = False
    fine: bool | None = None
    level: int | None = None
    classes: tuple[str, ...] | None = None
    is_keeping_features: bool = False

    def __post_init__(self) -> None:
        row = next((spec for spec in list_models() if spec.name == self.model), None)
        if self.fine and row is not None and not row.has_fine:  # before anything is loaded
            names = ", ".join(spec.name for spec in list_models() if spec.has_fine)
            raise CapabilityError(
                f"{row.name} draws no fine boundaries; leave --fine out, or use one of {names}"
            )


@dataclass(frozen=True, slots=True)
class Made:
    """One committed object: its label, its area in pixels, the model's own guess of the IoU, 0 to 1, and its name."""

    label: int
    area: int
    score: float
    name: str = ""


@dataclass(slots=True)
class Planes:
    """The planes of an opened image, or of one channel of it, as a session reads them."""

    opened: OpenedImage
    channel: int | None = None
    fixed: Window | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = str(self.opened.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., H, W), as labels of this image have it."""
        return self.opened.label_shape

    def read(self, index: PlaneIndex) -> AnyArray:
        """Return one (H, W) or (H, W, C) plane."""
        return plane_of(self.opened.data, self.opened.axes, index=index, channel=self.channel)

    def window(self) -> Window:
        """Return one window for the whole stack; the same as a window of napari would use."""
        if self.fixed is None and self.channel is None:
            self.fixed = sample_window(self.opened.data)  # type: ignore[arg-type]  # it only slices
        if self.fixed is None:
            indices = list(plane_indices(self.opened.shape, self.opened.axes))
            picked = np.unique(np.linspace(0, len(indices) - 1, num=_WINDOW_PLANES).astype(int))
            self.fixed = sample_window(np.stack([self.read(indices[i]) for i in picked]))
        return self.fixed


def run(task: Task) -> tuple[list[Made], list[str]]:
    """Check what can be checked, then load the model, segment and write.

    Returns
    -------
    tuple
        The objects that were made, and why others were not.

    Raises
    ------
    SegAnyError
        If the image, a prompt, the model or the place for the result cannot be used.
    """
    opened = open_image(task.image)
    planes = Planes(opened, channel=task.channel, fixed=task.window)
    objects = read_objects(task, opened)
    shown = objects[0].prompts[0].index
    picture = planes.read(shown)  # so that an unreadable image is known before a model is loaded
    predictor = _predictor(task)
    source = {
        "path": str(task.image.resolve()),
        "shape": opened.shape,
        "axes": opened.axes,
        "channel": task.channel,
    }
    with LabelStore.create(
        task.out,
        shape=opened.label_shape,
        calibration=opened.calibration,
        source=source,
        overwrite=task.overwrite,
    ) as store:
        done = segment_objects(
            objects,
            planes=planes,
            predictor=predictor,
            store=store,
            fine=task.fine,
            level=task.level,
            features=features_store() if task.is_keeping_features else None,
        )
        if task.overlay is not None:
            height, width = store.shape[-2:]
            labels = store.read(shown, (slice(0, height), slice(0, width)))
            save_picture(task.overlay, draw_overlay(picture, labels, window=planes.window()))
    return done


def read_objects(task: Task, opened: OpenedImage) -> list[SavedObject]:
    """Return the objects of a task, each with its prompts plane by plane, all inside the image.

    Raises
    ------
    PromptError
        If there are none, boxes and clicked objects cannot be matched, or a prompt lies outside the image.
    """
    clicked = [one for text in task.points for one in _objects_in(text, task, opened, is_box=False)]
    boxed = [one for text in task.boxes for one in _objects_in(text, task, opened, is_box=True)]
    if not clicked and not boxed:
        raise PromptError("nothing to segment: give --points 'row,col' or --boxes 'row0,col0,row1,col1'")
    if clicked and boxed and len(clicked) != len(boxed):
        raise PromptError(
            f"{len(clicked)} clicked objects and {len(boxed)} boxes cannot be matched; give as many of each, "
            "in the same order, or only one kind"
        )
    objects = (
        [_together(a, b) for a, b in zip(clicked, boxed, strict=True)]
        if clicked and boxed
        else clicked or boxed
    )
    if len({one.id for one in objects}) < len(objects):  # from several files: count anew
        objects = [
            SavedObject(id=i, name=one.name, prompts=one.prompts) for i, one in enumerate(objects, start=1)
        ]
    for one in objects:
        for prompts in one.prompts:
            check_inside(prompts, one.id, shape=opened.label_shape)
    return objects


def features_store() -> FeatureStore:
    """Return what is kept of images between runs: in $SEGANY_CACHE, or the user's cache folder, beside the weights."""
    return FeatureStore(weights_dir().parent / "features")


def segment_objects(
    objects: Sequence[SavedObject],
    *,
    planes: Planes,
    predictor: ImagePredictorLike,
    store: LabelStore,
    fine: bool | None = None,
    level: int | None = None,
    features: FeatureStore | None = None,
) -> tuple[list[Made], list[str]]:
    """Segment objects one after another, each click refining the answer before it, and commit them.

    `fine` and `level` as `ImageSession` takes them; `features` keeps what the encoder saw.

    Returns
    -------
    tuple
        The objects that were made, and why others were not.
    """
    versions = {"napari-segany": __version__}
    session = ImageSession(planes, predictor, sink=store, versions=versions, fine=fine, store=features)
    errors: list[Exception] = []
    made: list[Made] = []
    refused: list[str] = []

    def keep(patches: tuple[LabelPatch, ...], note: Mapping[str, object]) -> None:
        label = session.object_id
        area = sum(int(np.count_nonzero(patch.after == label)) for patch in patches)
        made.append(Made(label, area, float(str(note["score"])), str(note.get("class", ""))))

    session.choose_level(level)
    session.failed.connect(errors.append)
    session.committed.connect(keep)
    try:
        for one in objects:
            session.object_id = one.id
            _ask(session, one)
            if errors:
                raise errors[0]
            if not session.commit():
                refused.append(f"object {one.id}: {errors.pop()}")
                session.clear()
    finally:
        session.close()
    return made, refused


def _ask(session: ImageSession, one: SavedObject) -> None:
    """Say everything about one object, in the order a person would: box, drawn mask, clicks."""
    for prompts in one.prompts:
        said: Prompt = prompts.prompt()
        if said.box is not None:
            session.set_box(prompts.index, said.box)
        if said.mask is not None:
            session.set_mask(prompts.index, said.mask.astype(bool))
        for row, col, positive in prompts.points:
            session.click(prompts.index, (row, col), positive=positive)


def _predictor(task: Task) -> ImagePredictorLike:
    from napari_segany.predict.image import ImagePredictor
    from napari_segany.predict.loading import load_model

    model = load_model(task.model, device=task.device, precision=task.precision, engine=task.engine)
    return ImagePredictor(model, classes=task.classes)


def _objects_in(text: str, task: Task, opened: OpenedImage, *, is_box: bool) -> list[SavedObject]:
    """Return the objects of a prompt file, or of prompts written inline."""
    axes = label_axes(opened.axes)
    if Path(text).suffix.lower() in {".csv", ".json", ".geojson"}:
        if task.plane is None:
            return load_prompts(text, axes=axes)
        index = _named_plane(opened, task.plane)
        return [
            SavedObject(
                id=one.id,
                name=one.name,
                prompts=tuple(FramePrompts.of(p.prompt(), index=index) for p in one.prompts),
            )
            for one in load_prompts(text, axes="YX")
        ]
    index = _named_plane(opened, task.plane or {})
    said = (
        [Prompt(box=b) for b in parse_boxes(text)]
        if is_box
        else [Prompt(points=p) for p in parse_points(text)]
    )
    return [
        SavedObject(id=i, prompts=(FramePrompts.of(p, index=index),)) for i, p in enumerate(said, start=1)
    ]


def _named_plane(opened: OpenedImage, plane: Mapping[str, int]) -> PlaneIndex:
    """Return the leading label indices of one plane; axes with a single index need no name."""
    leading = label_axes(opened.axes)[:-2]
    sides = dict(zip(leading, opened.label_shape[:-2], strict=True))
    unnamed = [letter for letter in leading if letter not in plane and sides[letter] > 1]
    if unnamed:
        example = ",".join(f"{letter}={sides[letter] // 2}" for letter in unnamed)
        raise AxesError(f"{opened.path} is a stack with {sides}; name the plane, as in --plane {example}")
    at = dict.fromkeys(leading, 0) | dict(plane)
    (index,) = plane_indices(opened.shape, opened.axes, at=at)
    return index


def _together(clicked: SavedObject, boxed: SavedObject) -> SavedObject:
    """Return one object from the clicks of one and the boxes of another, plane by plane."""
    boxes = {prompts.index: prompts for prompts in boxed.prompts}
    if set(boxes) != {prompts.index for prompts in clicked.prompts}:
        raise PromptError(f"the clicks and the box of object {clicked.id} are on different planes")
    both = (p.model_copy(update={"box": boxes[p.index].box}) for p in clicked.prompts)
    return SavedObject(id=clicked.id, name=clicked.name, prompts=tuple(both))
