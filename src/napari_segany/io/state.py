"""Saved states (`*.segany.json`): image, model and every prompt, to go on with work or to repeat it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from napari_segany.core.axes import Calibration, label_axes
from napari_segany.core.errors import FileFormatError, SegAnyError, StoreError
from napari_segany.core.granularity import LEVELS
from napari_segany.core.rle import Rle, decode_rle, encode_rle
from napari_segany.core.types import Box, Points, Prompt

from .ngff import replace_file

SUFFIX = ".segany.json"
_VERSION = 1

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Saved(BaseModel):
    """Immutable, and strict about names: a misspelt key is an error, not a loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SavedMask(_Saved):
    """A drawn mask as COCO's compressed run-length code."""

    size: tuple[int, int]
    counts: str

    @model_validator(mode="after")
    def _decodes(self) -> SavedMask:
        decode_rle(Rle(self.size, self.counts))
        return self


class FramePrompts(_Saved):
    """What was said about one object on one plane.

    Attributes
    ----------
    index
        Leading indices of the plane, () for a 2D image.
    points
        (row, col, positive), pixel centres.
    box
        Half-open (row0, col0, row1, col1).
    mask
        A drawn mask.
    """

    index: tuple[Annotated[int, Field(ge=0)], ...] = ()
    points: tuple[tuple[Finite, Finite, bool], ...] = ()
    box: tuple[Finite, Finite, Finite, Finite] | None = None
    mask: SavedMask | None = None

    @model_validator(mode="after")
    def _says_something(self) -> FramePrompts:
        self.prompt()
        return self

    @classmethod
    def of(cls, prompt: Prompt, *, index: tuple[int, ...] = ()) -> FramePrompts:
        """Return a prompt as it is saved; logits, which only refine an earlier answer, are not kept."""
        mask = prompt.mask if prompt.mask is not None and prompt.mask.dtype == np.bool_ else None
        saved = encode_rle(mask.astype(bool)) if mask is not None else None
        points = prompt.points
        rows = [] if points is None else zip(points.coords.tolist(), points.positive.tolist(), strict=True)
        box = prompt.box
        return cls(
            index=index,
            points=tuple((row, col, positive) for (row, col), positive in rows),
            box=None if box is None else (box.row0, box.col0, box.row1, box.col1),
            mask=None if saved is None else SavedMask(size=saved.size, counts=saved.counts),
        )

    def prompt(self) -> Prompt:
        """Return what a predictor is asked."""
        points = None
        if self.points:
            coords = np.array([point[:2] for point in self.points], dtype=np.float32)
            points = Points(coords, np.array([point[2] for point in self.points], dtype=bool))
        return Prompt(
            points=points,
            box=Box(*self.box) if self.box else None,
            mask=decode_rle(Rle(self.mask.size, self.mask.counts)) if self.mask else None,
        )


class SavedObject(_Saved):
    """One object: its label, a name if it has one, and its prompts plane by plane."""

    id: Annotated[int, Field(ge=1, lt=2**32)]
    name: str = ""
    prompts: tuple[FramePrompts, ...] = ()

    @field_validator("prompts")
    @classmethod
    def _one_per_plane(cls, prompts: tuple[FramePrompts, ...]) -> tuple[FramePrompts, ...]:
        planes = [one.index for one in prompts]
        if len(set(planes)) != len(planes):
            raise ValueError("an object has its prompts for a plane in one entry, not in several")
        return prompts


Unit = Annotated[float, Field(ge=0, le=1)]
FrameNumber = Annotated[int, Field(ge=0)]
FrameRun = tuple[FrameNumber, FrameNumber]
LabelId = Annotated[int, Field(ge=1, lt=2**32)]


class SpokenFrame(_Saved):
    """What was said about one object of a stack on one frame; as `FramePrompts`, but for the frame's number."""

    frame: FrameNumber
    points: tuple[tuple[Finite, Finite, bool], ...] = ()
    box: tuple[Finite, Finite, Finite, Finite] | None = None
    mask: SavedMask | None = None

    @model_validator(mode="after")
    def _says_something(self) -> SpokenFrame:
        FramePrompts(points=self.points, box=self.box, mask=self.mask)
        return self


class FollowedObject(_Saved):
    """One object of a stack.

    Attributes
    ----------
    name, colour, is_locked, parents
        As a person chose; red, green and blue are 0 to 1, None is the colour of the label.
    prompts
        By frame.
    told
        Frames of the prompts that the results follow from.
    results
        (frame, score, area in pixels, row, col of the centre); no centre where no pixel is.
    stale
        Half-open runs of frames whose results a later prompt outdated.
    """

    id: LabelId
    name: str = ""
    colour: tuple[Unit, Unit, Unit] | None = None
    is_locked: bool = False
    parents: tuple[LabelId, ...] = ()
    prompts: tuple[SpokenFrame, ...] = ()
    told: tuple[FrameNumber, ...] = ()
    results: tuple[tuple[FrameNumber, Finite, FrameNumber, Finite | None, Finite | None], ...] = ()
    stale: tuple[FrameRun, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> FollowedObject:
        said = [one.frame for one in self.prompts]
        if len(set(said)) != len(said):
            raise ValueError("an object has its prompts for a frame in one entry, not in several")
        if not set(self.told) <= set(said):
            raise ValueError(f"frames {sorted(set(self.told) - set(said))} were told, but have no prompts")
        return self


class SavedStack(_Saved):
    """Work on a stack or movie: `session.volume_state.VolumeState` as JSON.

    Attributes
    ----------
    axis, at
        Which leading axis of the labels counts the frames, and the indices on the others.
    object_id
        The object in work.
    dropped
        Always empty: objects that are gone are named in ledgers only.
    locked_frames
        Half-open runs.
    interrupted
        Ranges (start, stop, step) of a propagation that did not come to its end.
    """

    axis: FrameNumber
    at: tuple[FrameNumber, ...] = ()
    object_id: LabelId = 1
    objects: tuple[FollowedObject, ...] = ()
    dropped: tuple[()] = ()
    locked_frames: tuple[FrameRun, ...] = ()
    interrupted: tuple[tuple[int, int, int], ...] = ()

    @field_validator("objects")
    @classmethod
    def _one_each(cls, objects: tuple[FollowedObject, ...]) -> tuple[FollowedObject, ...]:
        if len({one.id for one in objects}) != len(objects):
            raise ValueError("two objects have the same id")
        return objects


class ImageReference(_Saved):
    """Which image the prompts belong to: where it is, and enough to see that it is the same.

    Attributes
    ----------
    path
        Absolute, or relative to the saved file; empty for an image that was never saved.
    shape, axes
        Of the whole image, channels included.
    scale, translate, units
        For each axis but the channels, as in `Calibration`.
    channel
        The one that was worked on; None for all.
    window
        Raw values that the models saw as 0 and 1.
    """

    path: str
    shape: tuple[Annotated[int, Field(ge=1)], ...]
    axes: str
    scale: tuple[Finite, ...] = ()
    translate: tuple[Finite, ...] = ()
    units: tuple[str, ...] = ()
    channel: int | None = None
    window: tuple[Finite, Finite] | None = None

    @model_validator(mode="after")
    def _fits(self) -> ImageReference:
        if len(self.axes) != len(self.shape):
            raise ValueError(f"axes {self.axes!r} do not fit the shape {self.shape}")
        self.calibration()
        return self

    def calibration(self) -> Calibration:
        """Return where labels of this image lie in the world."""
        return Calibration(label_axes(self.axes.upper()), self.scale, self.translate, self.units)


class ModelReference(_Saved):
    """Which model answered."""

    name: str
    sha256: str = ""


class LabelReference(_Saved):
    """Which label store the results went to."""

    path: str
    name: str = "labels"


class SavedState(_Saved):
    """Everything that is needed to go on with a piece of work, or to repeat it; `stack` if it is one on a stack.

    `level` is the granularity that was chosen, None for the best mask, and `classes` are the names that masks were told
    apart by, none for the model's own.
    """

    version: Literal[1] = Field(default=1, alias="segany")
    image: ImageReference
    model: ModelReference | None = None
    objects: tuple[SavedObject, ...] = ()
    labels: LabelReference | None = None
    stack: SavedStack | None = None
    level: Annotated[int, Field(ge=LEVELS[0], le=LEVELS[-1])] | None = None
    classes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> SavedState:
        ids = [one.id for one in self.objects]
        if len(set(ids)) != len(ids):
            raise ValueError("two objects have the same id")
        leading = len(label_axes(self.image.axes.upper())) - 2
        if self.stack is not None and len(self.stack.at) != leading - 1:
            raise ValueError(f"the stack lies at {self.stack.at}, not at {leading - 1} indices")
        for one in self.objects:
            for prompts in one.prompts:
                if len(prompts.index) != leading:
                    raise ValueError(
                        f"object {one.id} names the plane {prompts.index}, not {leading} indices"
                    )
        return self


def save_state(path: str | os.PathLike[str], state: SavedState) -> Path:
    """Write a state, whole or not at all, and return its path, which ends with ".segany.json"."""
    file = Path(path)
    if not file.name.endswith(SUFFIX):
        file = file.with_name(file.name.removesuffix(".json") + SUFFIX)
    try:
        replace_file(file, state.model_dump_json(by_alias=True, exclude_defaults=False, indent=1).encode())
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error}; choose a folder that you may write to") from error
    return file


def load_state(path: str | os.PathLike[str]) -> SavedState:
    """Return a saved state.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, of another kind or of a newer version.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileFormatError(f"cannot read {file} as {SUFFIX}: {error}") from error
    version = content.get("segany") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise FileFormatError(f"{file} is JSON, but not a saved state: it has no key 'segany' with a version")
    if version > _VERSION:
        raise FileFormatError(
            f"{file} has version {version}, but only {_VERSION} is known; update napari-segany"
        )
    try:
        return SavedState.model_validate(content)
    except (ValidationError, SegAnyError) as error:
        raise FileFormatError(f"{file} is damaged: {_first(error)}") from error


def _first(error: Exception) -> str:
    """Return the first complaint, with its place in the file."""
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    return str(error)
