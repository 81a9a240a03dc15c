"""What is known of the objects of a label image, such as their class: kept in its OME-NGFF metadata.

NGFF has a list for it, `image-label.properties`: one entry an object, with its label and whatever else is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from napari_segany.core.errors import FileFormatError, StoreError

from .ngff import read_attributes, write_attributes

_LABEL = "label-value"
INDEX = "index"
"""The column that holds the labels."""


def write_object_properties(group: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Put a table of objects into the metadata of a label image, in place of the one that was there.

    Parameters
    ----------
    group
        The folder of the label image.
    columns
        Of one length: `index` has the labels, the others are numbers, texts or booleans; NaN and None are left out.

    Raises
    ------
    FileFormatError
        If the folder is no label image.
    StoreError
        If it cannot be written.
    """
    attributes, about = _label_part(group)
    others = [name for name in columns if name != INDEX]
    rows = [
        {_LABEL: int(label)}
        | {name: value for name in others if (value := _plain(columns[name][place])) is not None}
        for place, label in enumerate(columns[INDEX])
    ]
    about.pop("properties", None)
    if rows:
        about["properties"] = rows
    try:
        write_attributes(group, attributes)
    except OSError as error:
        raise StoreError(f"cannot write what is known of the objects into {group}: {error}") from error


def read_object_properties(group: Path) -> dict[str, list[Any]]:
    """Return the table of objects of a label image, by column, `index` first; empty where it has none.

    A text that an object lacks is "", any other value None. Entries that are not NGFF's are left out.
    """
    _, about = _label_part(group)
    listed = about.get("properties") or []
    rows = [row for row in listed if isinstance(row, dict) and isinstance(row.get(_LABEL), int)]
    if not rows:
        return {}
    names = list(dict.fromkeys(name for row in rows for name in row if name != _LABEL))
    columns: dict[str, list[Any]] = {INDEX: [row[_LABEL] for row in rows]}
    for name in names:
        is_text = any(isinstance(row.get(name), str) for row in rows)
        columns[name] = [row.get(name, "" if is_text else None) for row in rows]
    return columns


def _label_part(group: Path) -> tuple[dict[str, Any], dict[str, Any]]:  # Any: JSON
    """Return the attributes of a label image, and the part of them that says that it is one."""
    attributes = read_attributes(group)
    ome = attributes.get("ome")
    about = ome.get("image-label") if isinstance(ome, dict) else None
    if not isinstance(about, dict):
        raise FileFormatError(f"{group} is no OME-NGFF label image: its metadata have no image-label")
    return attributes, about


def _plain(value: Any) -> Any:  # Any: whatever a table holds
    """Return a cell as JSON, None where nothing is known."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, bool | int | float | str) else str(value)
