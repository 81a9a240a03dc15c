"""Frames that follow each other along T or Z, of any image: read lazily, all seen through one intensity window."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from .axes import (
    Calibration,
    Sliceable,
    channel_axis,
    frame_axis,
    label_axes,
    label_shape,
    plane_indices,
    plane_of,
)
from .errors import AxesError, ImageError
from .intensity import Window, sample_window
from .types import AnyArray, FrameSource

_COLOURS = 3
_SAMPLED_PLANES = 16
_SAMPLED_PIXELS = 1 << 20
_UNIT = Window(0.0, 1.0)


class ImagePlanes:
    """The planes of an image, or of some of its channels, with one intensity window for all of them.

    Several channels become colours. Each then has a window of its own, as a dim channel would vanish in the window of
    a bright one, and planes come scaled, float32 in 0..1; samples of RGB images, and channels with a window that was
    given, stay raw. One channel always comes raw, in its own dtype.

    Parameters
    ----------
    image
        Any shape, lazy or not; of real numbers.
    axes
        Letters as from `resolve_axes`.
    channels
        Which ones, in the order red, green, blue; empty for all, of which there may be three.
    window
        Raw values that become 0 and 1; None samples it from planes over the whole image when it is first needed.
    name
        For messages and provenance.
    calibration
        Of labels of this image; plain pixels if None.

    Raises
    ------
    AxesError
        If the axes do not fit, or there are too many channels or other ones.
    ImageError
        If the image is empty, or its values are no real numbers.
    """

    def __init__(
        self,
        image: Sliceable,
        axes: str,
        *,
        channels: Sequence[int] = (),
        window: Window | None = None,
        name: str = "image",
        calibration: Calibration | None = None,
    ) -> None:
        shape = tuple(image.shape)
        if len(shape) != len(axes):
            raise AxesError(f"{name} has shape {shape} but axes {axes!r}; one letter a side is needed")
        if 0 in shape:
            raise ImageError(f"{name} is empty: its shape is {shape}")
        if np.dtype(image.dtype).kind not in "buif":
            raise ImageError(f"{name} has dtype {image.dtype}, which is no real number; convert it first")
        self.axes, self.name, self._image = axes, name, image
        self.channels = _checked_channels(shape, axes, channels=channels, name=name)
        self.calibration = calibration or Calibration(label_axes(axes))
        self.shape = label_shape(shape, axes)
        self.calibration.fits(self.shape)
        is_mixed = len(self.channels) > 1 and "C" in axes
        self._fixed = window
        self._scales: tuple[Window, ...] | None = None
        self._is_scaled = is_mixed and window is None
        self._lock = threading.Lock()

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Sides of the image, channels included, in the order of `axes`."""
        return tuple(self._image.shape)

    def read(self, index: tuple[int, ...]) -> AnyArray:
        """Return one (H, W) or (H, W, C) plane by its leading label indices."""
        plane = self._raw(index)
        if not self._is_scaled:
            return plane
        scales = self._channel_windows()
        return np.stack([scale.apply(plane[..., i]) for i, scale in enumerate(scales)], axis=-1)

    def window(self) -> Window:
        """Return the one window of all planes; the same at every call.

        Raises
        ------
        ImageError
            If no plane holds a finite value.
        """
        if self._is_scaled:
            return _UNIT
        with self._lock:
            if self._fixed is None:
                self._fixed = self._sampled(None)
            return self._fixed

    def _channel_windows(self) -> tuple[Window, ...]:
        """Return the window of each channel that becomes a colour."""
        with self._lock:
            if self._scales is None:
                self._scales = tuple(self._sampled(i) for i in range(len(self.channels)))
            return self._scales

    def _raw(self, index: tuple[int, ...]) -> AnyArray:
        """Return one plane in the image's own dtype."""
        if not self.channels:
            return self._read_plane(index, channel=None)
        if len(self.channels) == 1:
            return self._read_plane(index, channel=self.channels[0])
        if "S" in self.axes:  # interleaved in most files: read once
            return np.ascontiguousarray(self._read_plane(index, channel=None)[..., list(self.channels)])
        return np.stack([self._read_plane(index, channel=i) for i in self.channels], axis=-1)

    def _read_plane(self, index: tuple[int, ...], *, channel: int | None) -> AnyArray:
        """Return a plane, or one channel of it; what sources on disk build on."""
        return plane_of(self._image, self.axes, index=index, channel=channel)

    def _sampled(self, place: int | None) -> Window:
        """Return the window of planes spread evenly over the image; of all planes if those say nothing.

        `place` is that of one of several channels.
        """
        indices = list(plane_indices(self.image_shape, self.axes))
        spread = np.unique(np.linspace(0, len(indices) - 1, num=_SAMPLED_PLANES).astype(int))
        for picked in (spread, np.arange(len(indices))):
            values = np.stack([self._thinned(indices[i], place=place, among=len(picked)) for i in picked])
            seen = values[np.isfinite(values)]
            if seen.size and (seen.min() < seen.max() or len(picked) == len(indices)):
                return sample_window(values.reshape(-1, *values.shape[2:]))  # as one plane: all of it counts
        raise ImageError(f"{self.name} holds no finite value on any of its {len(indices)} planes")

    def _thinned(self, index: tuple[int, ...], *, place: int | None, among: int) -> AnyArray:
        """Return every n-th pixel of a raw plane, so that so many planes stay a bounded sample."""
        plane = self._raw(index)
        step = max(1, int(np.ceil(np.sqrt(plane.shape[0] * plane.shape[1] * among / _SAMPLED_PIXELS))))
        thin = plane[::step, ::step]
        return np.ascontiguousarray(thin if place is None else thin[..., place])


def _checked_channels(
    shape: tuple[int, ...], axes: str, *, channels: Sequence[int], name: str
) -> tuple[int, ...]:
    """Return which channels planes have: those asked for, or all; () without a channel axis."""
    place = channel_axis(axes)
    asked = tuple(int(i) for i in channels)
    if place is None:
        if asked:
            raise AxesError(f"channel {asked[0]} was asked for, but axes {axes!r} of {name} have none")
        return ()
    count = shape[place]
    if not asked:
        colours = min(count, _COLOURS) if axes[place] == "S" else count  # past three samples: alpha
        asked = tuple(range(colours))
    if any(not 0 <= i < count for i in asked) or len(set(asked)) < len(asked):
        raise AxesError(f"channels {asked} of {name} must be different numbers from 0 to {count - 1}")
    if len(asked) > _COLOURS:
        raise AxesError(f"{name} has {count} channels; pick one, or up to {_COLOURS} that become colours")
    return asked


@dataclass(frozen=True, slots=True, eq=False)
class FrameStack:
    """The frames along one axis of an image, the other axes at one index: `[i]` is (H, W) or (H, W, C).

    Attributes
    ----------
    planes
        The image; its window is the same for all of its stacks.
    along
        Letter of the frame axis.
    at
        Index on every other leading axis, in the order of the labels' axes.
    """

    planes: ImagePlanes
    along: str
    at: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """For messages: the image, and where the stack lies in it."""
        where = ",".join(f"{letter}={i}" for letter, i in self.at)
        return f"{self.planes.name} [{where}]" if where else self.planes.name

    @property
    def frame_shape(self) -> tuple[int, int]:
        """(H, W) of every frame."""
        height, width = self.planes.shape[-2:]
        return height, width

    @property
    def anisotropy(self) -> float | None:
        """How many pixel widths lie between two frames of a z-stack; None along other axes or uncalibrated."""
        sizes = self.planes.calibration.keep("ZYX").spacing_um if self.along == "Z" else None
        return None if sizes is None else sizes[0] / float(np.sqrt(sizes[1] * sizes[2]))

    def __len__(self) -> int:
        return self.planes.shape[self._place]

    def __getitem__(self, frame: int, /) -> AnyArray:
        return self.planes.read(self.index(frame))

    def window(self) -> Window:
        """Return the one intensity window of all frames."""
        return self.planes.window()

    def index(self, frame: int) -> tuple[int, ...]:
        """Return the leading label indices of a frame."""
        if not 0 <= frame < len(self):
            raise IndexError(f"frame {frame} is not one of the {len(self)} of {self.name}")
        where = {self.along: int(frame), **dict(self.at)}
        return tuple(where[letter] for letter in self._leading)

    def frame_of(self, index: Sequence[int]) -> int | None:
        """Return which frame a plane of the labels is; None if it is of another stack."""
        if len(index) != len(self._leading):
            raise AxesError(
                f"planes of {self.name} have one index for each of {self._leading!r}, got {index}"
            )
        where = dict(zip(self._leading, index, strict=True))
        frame = int(where[self.along])
        is_here = all(where[letter] == i for letter, i in self.at) and 0 <= frame < len(self)
        return frame if is_here else None

    @property
    def _leading(self) -> str:
        return label_axes(self.planes.axes)[:-2]

    @property
    def _place(self) -> int:
        return self._leading.index(self.along)


def frame_stacks(
    planes: ImagePlanes, *, axis: str | None = None, fixed: Mapping[str, int] | None = None
) -> Iterator[FrameStack]:
    """Yield every stack of an image along one axis, the other axes looped over, the last one fastest.

    Parameters
    ----------
    planes
        The image.
    axis
        The frame axis, for example "T"; None picks it as `frame_axis` does.
    fixed
        Axes that stay at one index, for example {"Z": 3}.

    Raises
    ------
    AxesError
        If the image is a single plane, has no such axis, or an index is outside of it.
    """
    along = frame_axis(planes.axes, prefer=axis)
    at = {letter.upper(): i for letter, i in (fixed or {}).items()}
    if along in at:
        raise AxesError(f"axis {along!r} is the frame axis of {planes.name}; it cannot stay at {at[along]}")
    leading = label_axes(planes.axes)[:-2]
    others = [(place, letter) for place, letter in enumerate(leading) if letter != along]
    for index in plane_indices(planes.image_shape, planes.axes, at={**at, along: 0}):
        yield FrameStack(planes, along, tuple((letter, index[place]) for place, letter in others))


class ReadAhead:
    """Frames of a slow source: while one is looked at, a thread reads the next one in the direction of travel.

    One frame is kept, never more. All reads happen on that thread, one after another, so the source need not be safe
    for several. A frame that cannot be read raises when it is asked for, not before. Close it, or use it with `with`.
    """

    def __init__(self, frames: FrameSource) -> None:
        self._frames = frames
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="segany-frames")
        self._lock = threading.Lock()
        self._ahead: tuple[int, Future[AnyArray]] | None = None
        self._last: int | None = None

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, frame: int, /) -> AnyArray:
        with self._lock:
            ahead, self._ahead = self._ahead, None
            if ahead is not None and ahead[0] == frame:
                found = ahead[1]
            else:
                if ahead is not None:
                    ahead[1].cancel()
                found = self._thread.submit(self._frames.__getitem__, frame)
            step = -1 if self._last is not None and frame < self._last else 1
            self._last = frame
            if 0 <= frame + step < len(self._frames):
                self._ahead = frame + step, self._thread.submit(self._frames.__getitem__, frame + step)
        return found.result()

    def close(self) -> None:
        """Stop the thread, after the frame that it is reading."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlanesAhead:
    """The planes of an image, of which the frames of one stack are read ahead; for sources on disk.

    Close it, or use it with `with`.
    """

    def __init__(self, stack: FrameStack) -> None:
        self._stack, self._ahead = stack, ReadAhead(stack)
        self.name, self.shape = stack.planes.name, stack.planes.shape

    def read(self, index: tuple[int, ...]) -> AnyArray:
        """Return one (H, W) or (H, W, C) plane."""
        frame = self._stack.frame_of(index)
        return self._stack.planes.read(index) if frame is None else self._ahead[frame]

    def window(self) -> Window:
        """Return the one intensity window of all planes."""
        return self._stack.window()

    def __enter__(self) -> PlanesAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.close()
