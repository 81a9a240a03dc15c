"""Finding every object of a file's planes, without prompts: what `segany instances` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from napari_segany import __version__
from napari_segany.core.axes import plane_indices
from napari_segany.core.errors import StoreError
from napari_segany.core.granularity import check_level
from napari_segany.core.intensity import Window
from napari_segany.core.masks import ArrayLabels, LabelPatch, LabelSink
from napari_segany.io.exports import write_tiff_labels
from napari_segany.io.images import open_image
from napari_segany.io.label_store import LabelStore
from napari_segany.io.opened import OpenedImage
from napari_segany.models.registry import list_models
from napari_segany.predict.automatic import without_decoder
from napari_segany.predict.distances import DistanceSettings, settings_of
from napari_segany.predict.finders import Finder, finder_of
from napari_segany.predict.found import Panoptic
from napari_segany.predict.loading import load_model
from napari_segany.session.objects import Changes, CommittedObject, note_of

from .task import PlaneIndex, Planes

_TIFF = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class AutomaticTask:
    """What to segment, with what, and where the result goes; `settings` are those that a person gave.

    `levels` and `classes` as `finder_of` takes them.

    A path that ends with .tif or .tiff gets an OME-TIFF, any other an OME-Zarr label image.
    """

    image: Path
    out: Path
    model: str
    settings: Mapping[str, float] = field(default_factory=dict)
    levels: tuple[int, ...] | None = None
    classes: tuple[str, ...] | None = None
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    window: Window | None = None
    channel: int | None = None
    plane: Mapping[str, int] = field(default_factory=dict)
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.settings_for("")  # so that a wrong value is known before anything is loaded
        row = next((spec for spec in list_models() if spec.name == self.model), None)
        for level in self.levels or ():
            check_level(level)
        if row is not None and not row.finds_instances and self.levels is None:
            raise without_decoder(row.name)
        if self.is_tiff and self.out.exists() and not self.overwrite:
            raise StoreError(f"{self.out} exists already; choose another name, or pass --overwrite")

    @property
    def is_tiff(self) -> bool:
        """Whether the result is a TIFF file."""
        return self.out.suffix.lower() in _TIFF

    def settings_for(self, model: str) -> DistanceSettings:
        """Return a model's settings with those that were given in their place."""
        return replace(settings_of(model), **self.settings)  # type: ignore[arg-type]  # min_size is int, from typer


def run(task: AutomaticTask) -> list[int]:
    """Find and write the objects, and return how many there are on each plane.

    Raises
    ------
    SegAnyError
        If the image, the model or the place for the result cannot be used.
    """
    opened = open_image(task.image)
    planes = Planes(opened, channel=task.channel, fixed=task.window)
    indices = list(plane_indices(opened.shape, opened.axes, at=task.plane))
    planes.read(indices[0])  # so that an unreadable image is known before a model is loaded
    model = load_model(task.model, device=task.device, precision=task.precision, engine=task.engine)
    distances = task.settings_for(model.card.name) if model.decoder is not None or task.settings else None
    finder = finder_of(model, levels=task.levels, classes=task.classes, distances=distances)
    note = {
        "model": model.card.name,
        "weights_sha256": model.card.weights_sha256,
        "distances": None if distances is None else asdict(distances),
        "levels": task.levels,
        "classes": task.classes,
        "precision": model.placement.title,
        "engine": task.engine,
        "versions": {"napari-segany": __version__},
    }
    with _sink(task, opened) as sink:
        counts = find_objects(planes, indices, finder=finder, sink=sink, note=note)
        if isinstance(sink, ArrayLabels):
            write_tiff_labels(task.out, sink.array, calibration=opened.calibration)
    return counts


def find_objects(
    planes: Planes,
    indices: Sequence[PlaneIndex],
    *,
    finder: Finder,
    sink: LabelSink,
    note: Mapping[str, object],
) -> list[int]:
    """Write the objects of planes, each with an id of its own, and return how many there are on each plane."""
    window = planes.window()
    counts: list[int] = []
    for index in tqdm(indices, desc="planes", disable=len(indices) == 1 or None):
        found = finder.panoptic(planes.read(index), window=window)
        _write(found, sink=sink, index=index, note={**note, "window": [window.low, window.high]})
        counts.append(int(found.labels.max()))
    return counts


def _write(found: Panoptic, *, sink: LabelSink, index: PlaneIndex, note: Mapping[str, object]) -> None:
    """Put the objects of one plane, counted from 1, into a sink, counted on from what it has."""
    labels, first = found.labels, int(sink.max_label())
    if not labels.any():
        return
    unique = np.where(labels > 0, labels + np.uint32(first), 0).astype(np.uint32)
    rows: Changes = {
        first + label: CommittedObject(first + label, name, found.scores[label])
        for label, name in found.names.items()
    }
    patch = LabelPatch(index=index, row0=0, col0=0, before=np.zeros_like(unique), after=unique)
    sink.write(patch, note={**note, **note_of(rows)} if rows else note)


def _sink(task: AutomaticTask, opened: OpenedImage) -> AbstractContextManager[LabelSink]:
    """Return where labels go: a store, or an array that becomes a TIFF in the end."""
    if task.is_tiff:
        return nullcontext(ArrayLabels(np.zeros(opened.label_shape, dtype=np.uint32)))
    source = {
        "path": str(task.image.resolve()),
        "shape": opened.shape,
        "axes": opened.axes,
        "channel": task.channel,
    }
    return LabelStore.create(
        task.out,
        shape=opened.label_shape,
        calibration=opened.calibration,
        source=source,
        overwrite=task.overwrite,
    )
