"""From previews to label patches, and the note that says how an object came about."""

from __future__ import annotations

from collections.abc import Mapping

from napari_segany.core.masks import LabelPatch, LabelSink, paint_object
from napari_segany.core.rle import encode_rle
from napari_segany.core.types import ModelCard

from .answers import Preview
from .prompts import ObjectPrompts, PlaneIndex


def paint_previews(
    previews: Mapping[PlaneIndex, Preview], *, sink: LabelSink, label_id: int, keep_existing: bool
) -> list[LabelPatch]:
    """Return the patches that paint one object on every plane where it is shown; nothing is written here."""
    painted = (
        paint_object(sink, preview.mask, label_id=label_id, index=index, keep_existing=keep_existing)
        for index, preview in sorted(previews.items())
    )
    return [patch for patch in painted if patch is not None]


def provenance(preview: Preview, *, label_id: int, card: ModelCard | None, image: str) -> dict[str, object]:
    """Return everything that is needed to make the same mask again, as plain JSON values."""
    return {
        "label": label_id,
        "image": image,
        "model": card.name if card is not None else "",
        "weights_sha256": card.weights_sha256 if card is not None else "",
        "window": [preview.window.low, preview.window.high],
        "rounds": prompt_rounds(preview.prompts),
        "candidate": preview.chosen,
        "level": preview.level,
        "score": round(preview.score, 4),
    }


def prompt_rounds(prompts: ObjectPrompts) -> list[dict[str, object]]:
    """Return each question that was asked, first to last, with the candidate that it refined."""
    rounds: list[dict[str, object]] = []
    for asked in prompts.rounds():
        clicks = zip(asked.points.coords.tolist(), asked.points.positive.tolist(), strict=True)
        box = asked.box and [asked.box.row0, asked.box.col0, asked.box.row1, asked.box.col1]
        rounds.append(
            {
                "points": [[row, col, positive] for (row, col), positive in clicks],
                "box": box,
                "mask_rle": encode_rle(asked.mask).counts if asked.mask is not None else None,
                "refines_candidate": asked.seed.candidate if asked.seed is not None else None,
            }
        )
    return rounds
