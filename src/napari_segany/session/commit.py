"""From previews to label patches, and the note that says how an object came about."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from napari_segany.core.masks import LabelPatch, LabelSink, paint_object
from napari_segany.core.rle import encode_rle
from napari_segany.core.types import Labels

from .answers import Found, Preview
from .prompts import PlaneIndex

_MOST_COVERED = 0.5  # of an object that was found, by objects that are there already


def paint_previews(
    previews: Mapping[PlaneIndex, Preview], *, sink: LabelSink, label_id: int, keep_existing: bool
) -> list[LabelPatch]:
    """Return the patches that paint one object on every plane where it is shown; nothing is written here."""
    painted = (
        paint_object(sink, preview.mask, label_id=label_id, index=index, keep_existing=keep_existing)
        for index, preview in sorted(previews.items())
    )
    return [patch for patch in painted if patch is not None]


def provenance(preview: Preview, *, label_id: int, image: str) -> dict[str, object]:
    """Return everything that is needed to make the same mask again, as plain JSON values."""
    return {
        "label": label_id,
        "image": image,
        "model": preview.card.name,
        "weights_sha256": preview.card.weights_sha256,
        "fine": preview.has_fine,
        "window": [preview.window.low, preview.window.high],
        "rounds": prompt_rounds(preview),
        "candidate": preview.chosen,
        "level": preview.level,
        "score": round(preview.score, 4),
        "class": preview.name,
    }


def prompt_rounds(preview: Preview) -> list[dict[str, object]]:
    """Return each question that led to an answer, first to last, with the candidate that it refined."""
    rounds: list[dict[str, object]] = []
    asked_in_turn = preview.prompts.rounds(preview.card)
    for turn, asked in enumerate(asked_in_turn):
        clicks = zip(asked.points.coords.tolist(), asked.points.positive.tolist(), strict=True)
        box = asked.box and [asked.box.row0, asked.box.col0, asked.box.row1, asked.box.col1]
        refined = asked.seed_for(preview.card)
        later = asked_in_turn[turn + 1].seed if turn + 1 < len(asked_in_turn) else None
        rounds.append(
            {
                "points": [[row, col, positive] for (row, col), positive in clicks],
                "box": box,
                "mask_rle": encode_rle(asked.mask).counts if asked.mask is not None else None,
                "refines_candidate": refined.candidate if refined is not None else None,
                "fine": later.has_fine if later is not None else preview.has_fine,
            }
        )
    return rounds


def paint_found(labels: Labels, *, sink: LabelSink, index: PlaneIndex) -> LabelPatch | None:
    """Return the patch that adds every object of (H, W) `labels` to a plane, counted on from what there is.

    What is there stays; an object more than half of which is covered by it is left out, as it is that object found
    again. None if nothing is left to add.
    """
    whole = (slice(0, labels.shape[0]), slice(0, labels.shape[1]))
    before = sink.read(index, whole).astype(np.uint32)
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count)
    free = np.bincount(labels[before == 0], minlength=count)
    is_new = (free > 0) & (free >= (1 - _MOST_COVERED) * areas)
    is_new[0] = False
    ids = np.zeros(count, dtype=np.uint32)
    ids[is_new] = sink.max_label() + 1 + np.arange(int(is_new.sum()))
    added = np.where(before == 0, ids[labels], 0)
    rows, cols = (np.flatnonzero(added.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return None
    part = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    after = np.where(added > 0, added, before)[part]
    return LabelPatch(index=index, row0=int(rows[0]), col0=int(cols[0]), before=before[part], after=after)


def provenance_of_found(found: Found, *, labels: tuple[int, int], image: str) -> dict[str, object]:
    """Return how the objects of one plane came about that were found without prompts; `labels` are first and last."""
    return {
        "labels": list(labels),
        "image": image,
        "model": found.card.name,
        "weights_sha256": found.card.weights_sha256,
        "how": "every object, without prompts",
        "window": [found.window.low, found.window.high],
    }
