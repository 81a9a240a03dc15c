"""OME-NGFF metadata: calibration to and from multiscales, and files that are replaced whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from yaozarrs import v04, v05

from napari_segany.core.axes import PLAIN_UNIT, Calibration
from napari_segany.core.errors import AxesError, FileFormatError

# Parsed JSON has no static type: `Any` in this file stands for "whatever the file holds".

_TYPES = {"T": "time", "C": "channel", "Z": "space", "Y": "space", "X": "space"}


def multiscale_of(
    calibration: Calibration, *, name: str, levels: int = 1, channel: int | None = None
) -> v05.Multiscale:
    """Return NGFF 0.5 metadata of an image pyramid that halves rows and columns at every level.

    Parameters
    ----------
    calibration
        Of level 0.
    name
        Of the image.
    levels
        Levels in all, at least 1.
    channel
        Where a channel axis is put in, None for none.

    Raises
    ------
    AxesError
        If NGFF does not allow these axes in this order.
    """
    axes = [_axis(*pair) for pair in zip(calibration.axes, calibration.units, strict=True)]
    scale, translate = list(calibration.scale), list(calibration.translate)
    if channel is not None:
        axes.insert(channel, _axis("C", PLAIN_UNIT))
        scale.insert(channel, 1.0)
        translate.insert(channel, 0.0)
    datasets = []
    for level in range(levels):
        sizes = [*scale[:-2], *(side * 2**level for side in scale[-2:])]
        steps: list[Any] = [{"type": "scale", "scale": sizes}]
        if any(translate):  # striding keeps each corner pixel, so every level has the same origin
            steps.append({"type": "translation", "translation": translate})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    try:
        return v05.Multiscale.model_validate({"name": name, "axes": axes, "datasets": datasets})
    except ValidationError as error:
        raise AxesError(
            f"OME-Zarr cannot hold axes {calibration.axes!r}: time comes first, then at most one other axis, "
            f"then Z, Y, X; reorder the stack ({error.errors()[0]['msg']})"
        ) from error


def _axis(letter: str, unit: str) -> dict[str, str]:
    """Return the NGFF description of one axis."""
    axis = {"name": letter.lower()} | ({"type": _TYPES[letter]} if letter in _TYPES else {})
    return axis if unit == PLAIN_UNIT else axis | {"unit": unit}


def axes_of(multiscale: v04.Multiscale | v05.Multiscale) -> str:
    """Return one upper-case letter per axis, channels included."""
    names = [axis.name for axis in multiscale.axes]
    letters = "".join(name[:1].upper() for name in names)
    if len(set(letters)) != len(letters) or not letters.isalpha():
        raise AxesError(f"axes named {names} do not come down to different letters, as in 'TCZYX'")
    return letters


def calibration_of(multiscale: v04.Multiscale | v05.Multiscale) -> Calibration:
    """Return the calibration of level 0, without channels, in the order of the file but YX last."""
    letters = axes_of(multiscale)
    level, whole = (
        multiscale.datasets[0].coordinateTransformations,
        multiscale.coordinateTransformations or [],
    )
    scale, translate = [1.0] * len(letters), [0.0] * len(letters)
    for step in [*level, *whole]:
        factors = getattr(step, "scale", None)
        if factors is not None:
            scale = [a * b for a, b in zip(scale, factors, strict=True)]
            translate = [a * b for a, b in zip(translate, factors, strict=True)]
        else:
            shifts = getattr(step, "translation", None) or [0.0] * len(letters)
            translate = [a + b for a, b in zip(translate, shifts, strict=True)]
    order = [i for i, letter in enumerate(letters) if letter not in "CYX"]
    order += [letters.index(letter) for letter in "YX"]
    return Calibration(
        "".join(letters[i] for i in order),
        tuple(scale[i] for i in order),
        tuple(translate[i] for i in order),
        tuple(multiscale.axes[i].unit or PLAIN_UNIT for i in order),
    )


def read_attributes(group: Path) -> dict[str, Any]:
    """Return the attributes of a zarr v3 group.

    Raises
    ------
    FileFormatError
        If the folder is not such a group.
    """
    file = group / "zarr.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["zarr_format"] == 3 and content["node_type"] == "group":
            return dict(content.get("attributes") or {})
    except (FileNotFoundError, NotADirectoryError):
        raise FileFormatError(f"{group} is not a zarr group: it has no zarr.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"{file} is damaged or not zarr's ({error!r}); restore it from a copy"
        ) from error
    raise FileFormatError(
        f"{group} is not a zarr v3 group, but {content['node_type']} v{content['zarr_format']}"
    )


def write_attributes(group: Path, attributes: dict[str, Any]) -> None:
    """Replace the attributes of a zarr v3 group, whole or not at all."""
    content = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    replace_file(group / "zarr.json", json.dumps(content, indent=2).encode())


def replace_file(file: Path, content: bytes) -> None:
    """Put a file in place of another so that a crash leaves the one or the other, never half of one."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
