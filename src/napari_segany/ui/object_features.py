"""What is known of committed objects as the features of a Labels layer, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_segany.core.errors import SegAnyError
from napari_segany.io.label_store import LabelStore
from napari_segany.io.object_properties import INDEX
from napari_segany.session.objects import CommittedObject, ObjectTable, left_by

if TYPE_CHECKING:
    from pathlib import Path

    from napari.layers import Labels

Columns = Mapping[str, Sequence[Any]]  # Any: a table of a person's own


def show_objects(layer: Labels, table: ObjectTable) -> None:
    """Make the features of a layer say what is known of objects; columns of other programs stay."""
    layer.features = merged(_columns_of(layer), table)


def known_of(layer: Labels) -> ObjectTable:
    """Return what the features of a layer say."""
    return table_of(_columns_of(layer))


def table_of(columns: Columns) -> ObjectTable:
    """Return what columns say about the class, score and level of objects; nothing without labels and classes."""
    if INDEX not in columns or "class" not in columns:
        return ObjectTable()
    count = len(columns[INDEX])
    scores, levels = (columns.get(name, [None] * count) for name in ("score", "level"))
    rows = [
        CommittedObject(int(label), _text(name), _number(score), int(_number(level, lacking=0)))
        for label, name, score, level in zip(columns[INDEX], columns["class"], scores, levels, strict=True)
        if _number(label, lacking=0) > 0
    ]
    return ObjectTable({row.label: row for row in rows})


def merged(columns: Columns, table: ObjectTable) -> dict[str, Any]:
    """Return the features of a table, and beside them the columns that it does not have."""
    own = table.features()
    others = [name for name in columns if name not in own] if INDEX in columns else []
    if not others:
        return dict(own)
    places = {int(label): place for place, label in enumerate(columns[INDEX])}
    labels = sorted({*places, *table.rows})
    rows = {label: table.rows.get(label, CommittedObject(label)) for label in labels}
    whole: dict[str, Any] = dict(ObjectTable(rows).features())
    for name in others:
        values = [columns[name][places[label]] if label in places else None for label in labels]
        is_text = any(isinstance(value, str) for value in values)
        filled = [("" if is_text else math.nan) if value is None else value for value in values]
        whole[name] = np.array(filled)
    return whole


def objects_of_store(group: Path) -> ObjectTable:
    """Return what the ledger of a label store says; nothing if it cannot be read."""
    try:
        with LabelStore.open(group, read_only=True) as store:
            return left_by(commit.note for commit in store.records()).table
    except (SegAnyError, OSError):
        return ObjectTable()


def _columns_of(layer: Labels) -> dict[str, list[Any]]:
    features = layer.features
    return {str(name): list(features[name]) for name in features.columns}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, *, lacking: float = math.nan) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return lacking
    return lacking if math.isnan(number) else number
