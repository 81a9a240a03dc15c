"""Prompts for stacks: from any prompt file, or from labels of a frame, sorted by stack and frame."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from napari_segany.core.axes import channel_axis
from napari_segany.core.errors import FileFormatError, PromptError
from napari_segany.core.frames import FrameStack
from napari_segany.core.types import AnyArray, BoolMask, Prompt

from .frames import FilePlanes
from .images import TIFF, open_image
from .ome_zarr import read_labels
from .opened import OpenedImage
from .prompts import FramePrompts, SavedObject, check_inside, load_state, read_csv, read_geojson
from .state import SUFFIX, SavedStack

_JSON = (".geojson", ".json")


@dataclass(frozen=True, slots=True, eq=False)
class LabelledObject:
    """One object of a label plane: what of it lies in its box.

    Attributes
    ----------
    index
        Leading indices of the plane, as the labels name it.
    shape
        (H, W) of the plane.
    row0, col0
        Top left pixel of the box.
    mask : (h, w)
        True inside the object.
    """

    index: tuple[int, ...]
    shape: tuple[int, int]
    row0: int
    col0: int
    mask: BoolMask

    def prompt(self) -> Prompt:
        """Return the object as a mask prompt; it takes memory only where the object is."""
        whole = np.zeros(self.shape, dtype=bool)
        height, width = self.mask.shape
        whole[self.row0 : self.row0 + height, self.col0 : self.col0 + width] = self.mask
        return Prompt(mask=whole)


@dataclass(frozen=True, slots=True)
class StackPrompt:
    """What a file says about one object on one frame of a stack; `said` keeps masks packed."""

    object_id: int
    frame: int
    said: FramePrompts | LabelledObject
    name: str = ""

    def prompt(self) -> Prompt:
        """Return what a predictor is asked."""
        return self.said.prompt()


_Said = tuple[int, str, FramePrompts | LabelledObject]  # object, name, prompts


def load_stack_prompts(
    path: str | os.PathLike[str], stacks: Sequence[FrameStack], *, frame: int | None = None
) -> list[list[StackPrompt]]:
    """Return the prompts of a file for each of some stacks of one image, by object and frame.

    Planes may be named in full, as a viewer does; or by the frame alone, which then holds for every stack; or not at
    all, as in labels of one plane: then `frame` says which it is. Prompts on planes outside the stacks, such as other
    time points than a fixed one, are left out.

    Parameters
    ----------
    path
        `*.segany.json`, napari's `.csv` of points or rectangles, `.geojson`; or labels (TIFF, OME-Zarr), of which
        every object on every plane becomes a mask prompt.
    stacks
        As from `frame_stacks`, at least one.
    frame
        Where prompts are that name no plane; of labels with many planes, the only one that counts.

    Raises
    ------
    PromptError
        If there is no prompt for these stacks, or one lies outside of them.
    FileFormatError
        If the file is damaged or of another kind.
    """
    file = Path(path)
    length = len(stacks[0])
    if frame is not None and not 0 <= frame < length:
        raise PromptError(f"frame {frame} is not one of the {length} of {stacks[0].name}")
    if file.is_dir() or file.suffix.lower() in TIFF:
        said = _read_label_prompts(file, stacks[0], frame=frame)
    else:
        objects = _read_prompts(file, stacks[0], is_frame_given=frame is not None)
        said = [(one.id, one.name, prompts) for one in objects for prompts in one.prompts]
    found = [_prompts_of(said, stack, frame=frame, file=file) for stack in stacks]
    if not any(found):
        elsewhere = "; those it has are on other planes" if said else ""
        raise PromptError(f"{file} holds no prompt for {stacks[0].name}{elsewhere}")
    return found


def _read_prompts(file: Path, stack: FrameStack, *, is_frame_given: bool) -> list[SavedObject]:
    """Return what a prompt file holds, planes as it names them."""
    if file.name.endswith(SUFFIX):
        state = load_state(file)
        return [*state.objects, *(objects_of_stack(state.stack) if state.stack is not None else [])]
    if file.suffix.lower() == ".csv":
        return read_csv(file)
    if file.suffix.lower() in _JSON:
        is_plain = is_frame_given and not _names_planes(file)
        return read_geojson(file, axes="YX" if is_plain else stack.planes.calibration.axes)
    raise FileFormatError(
        f"{file} holds no prompts; accepted: *{SUFFIX}, napari's *.csv, *.geojson, and labels as TIFF or OME-Zarr"
    )


def objects_of_stack(stack: SavedStack) -> list[SavedObject]:
    """Return what was said in work on a stack, planes named in full."""
    before, after = stack.at[: stack.axis], stack.at[stack.axis :]
    return [
        SavedObject(
            id=one.id,
            name=one.name,
            prompts=tuple(
                FramePrompts(
                    index=(*before, said.frame, *after), points=said.points, box=said.box, mask=said.mask
                )
                for said in one.prompts
            ),
        )
        for one in stack.objects
    ]


def _names_planes(file: Path) -> bool:
    """Return whether a feature of a GeoJSON file says on which plane it is; damage is found by its reader."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        features = content.get("features", [content]) if isinstance(content, dict) else content
        return any("plane" in feature["geometry"] for feature in features)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _prompts_of(
    said: Sequence[_Said], stack: FrameStack, *, frame: int | None, file: Path
) -> list[StackPrompt]:
    """Return the prompts of one stack, checked to lie inside of it."""
    found = []
    for object_id, name, prompts in said:
        where = _frame_in(stack, prompts.index, object_id=object_id, frame=frame, file=file)
        if where is not None:
            if isinstance(prompts, FramePrompts):  # labels fit
                check_inside(prompts, object_id, shape=stack.frame_shape)
            found.append(StackPrompt(object_id, where, prompts, name))
    return sorted(found, key=lambda prompt: (prompt.object_id, prompt.frame))


def _frame_in(
    stack: FrameStack, index: tuple[int, ...], *, object_id: int, frame: int | None, file: Path
) -> int | None:
    """Return the frame of a stack that a prompt is on; None if it is on a plane of another stack."""
    leading = stack.planes.shape[:-2]
    if index == ():
        if frame is None:
            raise PromptError(
                f"object {object_id} of {file} names no frame; say which of the {len(stack)} it is on "
                "with --frame (frame=...)"
            )
        return frame
    sides = leading if len(index) == len(leading) else (len(stack),)
    if len(index) != len(sides):
        raise PromptError(
            f"object {object_id} of {file} names its plane by {len(index)} indices; the stack needs "
            f"{len(leading)}, for {stack.planes.calibration.axes[:-2]!r}, or the frame alone"
        )
    if any(not 0 <= i < side for i, side in zip(index, sides, strict=True)):
        raise PromptError(f"object {object_id} of {file} is on plane {index}, outside the planes {sides}")
    return stack.frame_of(index) if len(index) == len(leading) else index[0]


def _read_label_prompts(file: Path, stack: FrameStack, *, frame: int | None) -> list[_Said]:
    """Return every object of labels, its mask on each of its planes as a prompt."""
    planes = FilePlanes(_open_labels(file))
    leading = _leading_of(planes.shape, stack, file=file)
    found: list[_Said] = []
    for index in product(*map(range, planes.shape[:-2])):
        named = index[len(index) - len(leading) :]  # sides of one before them say nothing
        if named and frame is not None and _place_of(stack, named) != frame:
            continue
        found += [(label, "", one) for label, one in _objects_of(planes.read(index), index=named, file=file)]
    return found


def _objects_of(
    labels: AnyArray, *, index: tuple[int, ...], file: Path
) -> Iterator[tuple[int, LabelledObject]]:
    """Yield the objects of an (H, W) label plane, lowest first; one pass finds the boxes of all."""
    rows, cols = np.nonzero(labels)
    if rows.size == 0:
        return
    ids, owner = np.unique(labels[rows, cols], return_inverse=True)
    if int(ids[0]) < 0 or int(ids[-1]) >= 1 << 32:
        raise FileFormatError(
            f"{file} has labels from {ids[0]} to {ids[-1]}, but 0 is background and objects are 1 to 2**32 - 1"
        )
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(len(ids)))
    spans = [
        np.stack([end.reduceat(at[order], first) for end in (np.minimum, np.maximum)]) for at in (rows, cols)
    ]
    height, width = labels.shape
    for place, label in enumerate(ids):
        (row0, row1), (col0, col1) = (span[:, place].tolist() for span in spans)
        mask = labels[row0 : row1 + 1, col0 : col1 + 1] == label
        yield int(label), LabelledObject(index, (height, width), row0, col0, np.asarray(mask, dtype=bool))


def _open_labels(file: Path) -> OpenedImage:
    """Return an image of whole numbers without channels."""
    try:
        opened = read_labels(file) if file.is_dir() else open_image(file)
    except FileFormatError:
        if not file.is_dir():
            raise
        opened = open_image(file)  # not said to be labels: perhaps they are
    if opened.dtype.kind not in "ui" or channel_axis(opened.axes) is not None:
        raise FileFormatError(
            f"{file} is {opened.dtype} with axes {opened.axes!r}; labels are whole numbers without channels"
        )
    return opened


def _leading_of(shape: tuple[int, ...], stack: FrameStack, *, file: Path) -> tuple[int, ...]:
    """Return the sides of labels that name planes of a stack: all of them, the frames alone, or none."""
    whole = stack.planes.shape
    leading = shape[:-2]
    while leading and leading[0] == 1 and leading not in (whole[:-2], (len(stack),)):
        leading = leading[1:]
    if shape[-2:] == whole[-2:] and leading in (whole[:-2], (len(stack),), ()):
        return leading
    raise PromptError(
        f"{file} has labels of shape {shape}, which fit neither {stack.planes.name} of shape {whole} "
        f"nor one plane of it, {whole[-2:]}"
    )


def _place_of(stack: FrameStack, named: tuple[int, ...]) -> int:
    """Return the index on the frame axis of a plane that is named in full, or by its frame alone."""
    return named[stack.planes.calibration.axes.index(stack.along)] if len(named) > 1 else named[0]
