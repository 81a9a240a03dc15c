"""A session as a file and back: labels as OME-Zarr, and saved states with every prompt."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_segany.core.errors import SegAnyError
from napari_segany.core.types import Prompt
from napari_segany.io.images import open_image
from napari_segany.io.object_properties import INDEX, write_object_properties
from napari_segany.io.ome_zarr import write_labels_ome_zarr
from napari_segany.io.stack_prompts import objects_of_stack
from napari_segany.io.state import (
    SUFFIX,
    FramePrompts,
    ImageReference,
    LabelReference,
    ModelReference,
    SavedObject,
    SavedStack,
    SavedState,
    save_state,
)
from napari_segany.session.prompts import ObjectPrompts, PlaneIndex

from .layer_data import LayerData, image_layer, labels_layer, stem_of
from .layers import COLOURS, NEGATIVE, POSITIVE, SYMBOLS
from .outlines import corners_of_box
from .target import LEVEL_KEY

if TYPE_CHECKING:
    from .annotation import Annotation
    from .following import Following
    from .prompting import Prompting


def save_labels(running: Prompting, path: Path) -> Path:
    """Write a session's labels to a new OME-Zarr label image, with what is known of objects; return its folder."""
    if not path.name.endswith(".zarr"):
        path = path.with_name(f"{path.name}.ome.zarr")
    calibration = running.grid.calibration()
    group = write_labels_ome_zarr(path, running.target.array, calibration=calibration)
    features = running.layers.labels.features
    if INDEX in features:
        write_object_properties(group, {str(name): list(features[name]) for name in features})
    return group


def save_session(running: Annotation, path: Path) -> Path:
    """Write prompts, image, model and labels of a session as a saved state; return the file.

    Labels that are in memory only are written beside it first.
    """
    session = running.session
    return _save(running, path, objects=_objects(running), level=session.level, classes=session.classes)


def save_stack(running: Following, path: Path) -> Path:
    """Write the work on a stack, results and all, with image, model and labels as a saved state; return the file."""
    stack = SavedStack.model_validate(running.session.state().to_json())
    return _save(running, path, stack=stack)


def _save(
    running: Prompting,
    path: Path,
    *,
    objects: Sequence[SavedObject] = (),
    stack: SavedStack | None = None,
    level: int | None = None,
    classes: tuple[str, ...] = (),
) -> Path:
    labels = running.target.path
    if labels is None:
        labels = save_labels(running, path.with_name(path.name.removesuffix(SUFFIX) + ".ome.zarr"))
    calibration = running.grid.calibration()
    image = ImageReference(
        path=str(running.image.metadata.get("path", "")),
        shape=running.grid.shape,
        axes=calibration.axes,
        scale=calibration.scale,
        translate=calibration.translate,
        units=calibration.units,
        window=_window(running),
    )
    return save_state(
        path,
        SavedState(
            image=image,
            model=_model(running),
            objects=tuple(objects),
            labels=LabelReference(path=os.path.relpath(labels, path.parent)),
            stack=stack,
            level=level,
            classes=classes,
        ),
    )


def layers_of_state(state: SavedState, *, folder: Path) -> list[LayerData]:
    """Return the layers of a saved state: image and labels where they are found, clicks, boxes, drawn masks.

    Parameters
    ----------
    folder
        What relative paths in the state start from.
    """
    calibration = state.image.calibration()
    place = {
        "scale": calibration.scale,
        "translate": calibration.translate,
        "units": calibration.units,
        "axis_labels": tuple(letter.lower() for letter in calibration.axes),
    }
    ndim = len(calibration.axes)
    layers = _found_layers(state, folder)
    layers.append((*_shapes(state, ndim, place), "shapes"))
    layers.append((*_clicks(state, ndim, place), "points"))
    return layers


def _found_layers(state: SavedState, folder: Path) -> list[LayerData]:
    """Return image and labels, as far as their files are there."""
    layers: list[LayerData] = []
    file = folder / state.image.path
    if state.image.path and file.exists():
        layers.append(image_layer(open_image(file), name=stem_of(file)))
    if state.labels is not None:
        group = folder / state.labels.path
        try:
            layers.append(labels_layer(group, name=stem_of(group)))
        except SegAnyError:
            group = group / "labels" / state.labels.name
            if group.exists():
                layers.append(labels_layer(group, name=state.labels.name))
    for _, how, kind in layers:
        if kind == "labels":
            how["metadata"][LEVEL_KEY] = state.level
    return layers


def _said(state: SavedState) -> list[SavedObject]:
    """Return what was said about every object, also in work on a stack."""
    return [*state.objects, *(objects_of_stack(state.stack) if state.stack is not None else [])]


def _clicks(state: SavedState, ndim: int, place: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return data and arguments of a Points layer with every click."""
    rows = [
        (*frame.index, row, col, positive, one.id)
        for one in _said(state)
        for frame in one.prompts
        for row, col, positive in frame.points
    ]
    table = np.array(rows, dtype=float).reshape(-1, ndim + 2)
    signs = np.where(table[:, -2] > 0, POSITIVE, NEGATIVE).astype(object)
    features = {"prompt": signs, "object": table[:, -1].astype(int)}
    how = {"name": "Saved clicks", "ndim": ndim, "features": features, **place}
    if rows:
        how |= {"symbol": [SYMBOLS[sign] for sign in signs], "face_color": "prompt"}
        how |= {"face_color_cycle": COLOURS}
    return table[:, :-2], how


def _shapes(state: SavedState, ndim: int, place: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return data and arguments of a Shapes layer with every box."""
    corners, ids = [], []
    for one in _said(state):
        for frame in one.prompts:
            box = frame.prompt().box
            if box is not None:
                flat = corners_of_box(box)
                lead = np.broadcast_to(np.array(frame.index, dtype=np.float32), (4, len(frame.index)))
                corners.append(np.hstack([lead, flat]))
                ids.append(one.id)
    how = {"name": "Saved boxes", "ndim": ndim, "features": {"object": ids}, "face_color": "transparent"}
    return corners or None, {**how, "shape_type": "rectangle", **place}


def _objects(running: Annotation) -> list[SavedObject]:
    """Return every committed object, and the one in work."""
    state = running.session.state()
    everything = {**state.finished, state.object_id: state.prompts}
    known = running.session.objects.rows
    names = {label: row.name for label, row in known.items() if label in state.finished}
    return [
        SavedObject(id=object_id, name=names.get(object_id, ""), prompts=_frames(prompts))
        for object_id, prompts in sorted(everything.items())
        if prompts
    ]


def _frames(prompts: Mapping[PlaneIndex, ObjectPrompts]) -> tuple[FramePrompts, ...]:
    return tuple(
        FramePrompts.of(
            Prompt(points=one.points if len(one.points) else None, box=one.box, mask=one.mask), index=index
        )
        for index, one in sorted(prompts.items())
    )


def _window(running: Prompting) -> tuple[float, float] | None:
    window = running.session.window
    return None if window is None else (window.low, window.high)


def _model(running: Prompting) -> ModelReference | None:
    card = running.session.card
    return None if card is None else ModelReference(name=card.name, sha256=card.weights_sha256)
