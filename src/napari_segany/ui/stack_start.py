"""Puts the session of a stack together: image layer, frame axis, model, labels, worker, layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_warning

from napari_segany.core.errors import SegAnyError
from napari_segany.core.types import VideoPredictorLike
from napari_segany.session.prompts import PlaneIndex
from napari_segany.session.volume import VolumeSession
from napari_segany.session.worker import LatestWorker

from .following import Following
from .grid import Grid, grid_of, locate, source_of
from .layers import add_layers
from .loading import Loading
from .post import MainThread
from .settings import Settings
from .start import Choice, installed_versions
from .target import Target, target_of, try_new_target

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

_TIME_NAMES = ("t", "time", "frame", "frames")
_DEPTH_NAMES = ("z", "depth", "slice", "slices", "plane")


@dataclass(frozen=True, slots=True)
class FrameAxis:
    """A leading axis of a grid: its place, its letter (T, Z, or another one), what people call it, its length."""

    place: int
    letter: str
    name: str
    n_frames: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}  ({self.n_frames} frames)"


@dataclass(frozen=True, eq=False)
class StackChoice(Choice):
    """What a person chose before Start.

    Attributes
    ----------
    axis
        What counts the frames, a place among the leading axes of the grid.
    over_time
        Whether frames are times.
    follows_slider
        Whether another position on the other leading axes is a stack of its own.
    """

    axis: int = 0
    over_time: bool = False
    follows_slider: bool = True


def frame_axes(image: Image) -> list[FrameAxis]:
    """Return the leading axes of an image layer, channels left out; none for a single plane."""
    grid = grid_of(image)
    letters, names = grid.calibration().axes, grid.placement["axis_labels"]
    return [
        FrameAxis(
            place, _letter(str(names[place]), letters[place]), _name(str(names[place]), letters[place]), n
        )
        for place, n in enumerate(grid.shape[:-2])
    ]


def preferred_axis(axes: list[FrameAxis]) -> int:
    """Return which of some axes to offer first: time, else depth, else the last one; of those with frames to follow."""
    long = [axis for axis in axes if axis.n_frames > 1] or axes
    best = next((axis for letter in "TZ" for axis in long if axis.letter == letter), long[-1])
    return axes.index(best)


def start_stack(
    viewer: ViewerModel,
    choice: StackChoice,
    *,
    settings: Settings,
    post: MainThread,
    loading: Loading[VideoPredictorLike],
) -> tuple[Following, Exception | None]:
    """Start a session over a stack in a viewer.

    Returns
    -------
    What runs, and why its labels are only in memory although the settings ask for a store.
    """
    grid = grid_of(choice.image)
    problem: Exception | None = None
    if choice.labels is not None:
        target = target_of(choice.labels, grid=grid)
    else:
        target, problem = try_new_target(grid, image_name=choice.image.name, settings=settings)
    load = _Loaded(partial(loading.of, settings=settings), choice.model)
    opening = _Opening(choice, target, load, post)
    plane = _plane_in_view(viewer, choice.image, grid)
    at = tuple(i for place, i in enumerate(plane) if place != choice.axis)
    try:
        session = opening(at)
    except (SegAnyError, OSError):
        target.close()
        raise
    layers = add_layers(viewer, grid=grid, target=target, name=choice.image.name, labels=choice.labels)
    running = Following(
        viewer,
        choice.image,
        session=session,
        open_session=opening,
        layers=layers,
        grid=grid,
        target=target,
        follows_slider=choice.follows_slider,
        later=post.post,
    )
    return running, problem


class _Loaded:
    """A predictor that is loaded once, for all stacks of an image; called on a worker's thread."""

    def __init__(self, load_of: Any, model: str) -> None:  # Any: `Loading.of` with its settings
        self._load = load_of(model)
        self._predictor: VideoPredictorLike | None = None

    def __call__(self) -> VideoPredictorLike:
        if self._predictor is None:
            self._predictor = self._load()
        return self._predictor


@dataclass(frozen=True, eq=False)
class _Opening:
    """Opens the session of any stack of an image."""

    choice: StackChoice
    target: Target
    load: _Loaded
    post: MainThread

    def __call__(self, at: PlaneIndex) -> VolumeSession:
        image = self.choice.image
        session = VolumeSession(
            source_of(image, channel=self.choice.channel),
            self.load,
            sink=self.target.sink,
            axis=self.choice.axis,
            at=at,
            over_time=self.choice.over_time,
            worker=LatestWorker(post=self.post.post, name=f"segany-{image.name}"),
            versions=installed_versions(),
        )
        session.warned.connect(show_warning)
        return session


def _plane_in_view(viewer: ViewerModel, image: Image, grid: Grid) -> PlaneIndex:
    """Return which plane of a grid a viewer shows."""
    return locate(image, viewer.dims.point[-image.ndim :], shape=grid.shape)[0]


def _letter(name: str, letter: str) -> str:
    """Return T or Z for an axis that is called so, else the letter that it has in the calibration."""
    if name.lower() in _TIME_NAMES:
        return "T"
    return "Z" if name.lower() in _DEPTH_NAMES else letter


def _name(name: str, letter: str) -> str:
    """Return what an axis is called; its letter where napari only numbers it."""
    is_number = name.lstrip("-").isdigit()
    return letter if is_number or not name else (name.upper() if len(name) == 1 else name)
