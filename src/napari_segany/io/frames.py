"""Planes of image files, and what goes wrong when they are read after all looked well."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from napari_segany.core.axes import label_axes
from napari_segany.core.errors import FileFormatError, SegAnyError
from napari_segany.core.frames import ImagePlanes
from napari_segany.core.intensity import Window
from napari_segany.core.types import AnyArray

from .opened import OpenedImage

_DAMAGE = (  # what zarr, tifffile and their codecs raise on damaged chunks
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    EOFError,
    ArithmeticError,
    AssertionError,
    struct.error,
    zlib.error,
)


class FilePlanes(ImagePlanes):
    """The planes of an opened image; a plane that cannot be read is a FileFormatError that names it.

    Parameters
    ----------
    opened
        As from `open_image`.
    channels
        Which ones; empty for all, of which there may be three.
    window
        Raw values that become 0 and 1; None samples it from the stack.
    """

    def __init__(
        self, opened: OpenedImage, *, channels: Sequence[int] = (), window: Window | None = None
    ) -> None:
        super().__init__(
            opened.data,
            opened.axes,
            channels=channels,
            window=window,
            name=str(opened.path),
            calibration=opened.calibration,
        )

    def _read_plane(self, index: tuple[int, ...], *, channel: int | None) -> AnyArray:
        """Return a plane, or one channel of it."""
        try:
            return super()._read_plane(index, channel=channel)
        except SegAnyError:
            raise
        except _DAMAGE as error:
            letters = label_axes(self.axes)[:-2]
            where = ", ".join(f"{letter}={i}" for letter, i in zip(letters, index, strict=True))
            what = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FileFormatError(
                f"cannot read the plane {where or '(the only one)'} of {self.name}: {what}; it is damaged or "
                "was cut off, copy it again from where it was made"
            ) from error
