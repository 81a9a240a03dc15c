"""One recipe per shipped model: everything that a run needs beside the data's path."""

from __future__ import annotations

from dataclasses import replace

from napari_segany.core.errors import UnknownModelError

from .answer_plan import AnswerPlan
from .clip_plan import ClipPlan, WindowPlan
from .crops import CropPlan
from .movies import CLIP_KINDS
from .nested import NestedPlan
from .scenes import KINDS, THIN_KINDS
from .stages import Recipe, Stage

_DECODER = Stage(
    2700,
    CropPlan(side=256, objects=5, part_share=0.2, magnified=0.4),
    batch=4,
    rate=5e-4,
    last_rate=0.0,
    rounds=6,
    late_share=0.6,
    dense_weight=0.0,
    scene_share=0.55,
    learns=("sam_mask_decoder", "sam_prompt_encoder"),  # what memory and fine parts stand on stays
)

_WHOLE = replace(_DECODER, late_share=0.7, learns=())
"""Trunk and judge, too."""

_WIDELY = replace(
    _WHOLE, wide=CropPlan(side=384, objects=5, part_share=0.2, zoom=(0.7, 1.5)), wide_share=0.45
)

_ALL_AROUND = replace(
    _WIDELY,
    rate=6e-4,
    object_weight=0.5,
    kinds=(*KINDS, "filaments", "filaments", "em", "phase", "phase", "composite"),
    clip_kinds=(*CLIP_KINDS, "tubes", "tubes", "shells", "sheet"),
)

_HANDED_ON = replace(_ALL_AROUND, rounds=3, late_share=0.6, clip_share=0.2, learns=_DECODER.learns)
"""First clicks above all: what a decoder learns that hands on what it is told from place to place."""

_JUDGED = Stage(2000, AnswerPlan(), batch=256, rate=3e-3, last_rate=0.0, kinds=KINDS, learns=("judge",))

_FORETOLD = replace(
    _JUDGED,
    plan=AnswerPlan("sides", scenes=1200, images=430, objects=(8, 16), image_share=0.4),
    steps=3000,
    rate=1e-2,
    kinds=(*KINDS, *THIN_KINDS, *KINDS),
    learns=("size_head",),
)
"""How large objects may be before they are drawn."""

SAM2_NANO = Recipe(
    "sam2-nano",
    stages=(
        Stage(3200, CropPlan(side=192, objects=4), batch=8, rate=6e-4, last_rate=4e-4, rounds=4),
        Stage(
            900, CropPlan(side=256, objects=5), batch=5, rate=4e-4, last_rate=0.0, rounds=6, dense_weight=0.3
        ),
        Stage(
            450,
            CropPlan(side=192, objects=4),
            batch=8,
            rate=2e-4,
            last_rate=0.0,
            dense_weight=0.1,
            scene_share=0.8,
        ),
        _DECODER,
        replace(_DECODER, steps=450, rate=1.5e-3, learns=("judge",)),
        replace(_DECODER, steps=2200, rate=4e-4, late_share=0.7, scene_share=0.5, kept=0.5),  # judge, too
        replace(_WHOLE, steps=3000, object_weight=0.6),
        replace(_WIDELY, steps=3300, object_weight=0.45, scene_share=0.62),
        replace(_ALL_AROUND, steps=3400, scene_share=0.72, kept=0.3),
        _JUDGED,
        replace(_HANDED_ON, steps=600, scene_share=0.85),
        replace(_HANDED_ON, steps=3700, scene_share=0.8, kinds=(*_HANDED_ON.kinds, "em")),
        _JUDGED,
        _FORETOLD,
    ),
)

_OUTLINES = Stage(
    2400,
    CropPlan(side=192, objects=4),
    batch=6,
    rate=2e-3,
    last_rate=0.0,
    rounds=3,
    dense_weight=0.0,
    scene_share=0.8,
    kinds=(*KINDS, *(3 * THIN_KINDS), "em", "membrane"),
)

_FITTED = replace(_OUTLINES, steps=600, rate=8e-4)
"""Each time that the base's decoder had moved on."""

_WIDELY_FITTED = replace(_FITTED, steps=700, kinds=(*_OUTLINES.kinds, *(3 * ("em", "membrane")), "composite"))

_EVENLY = (
    *KINDS,
    *THIN_KINDS,
    *("neurites", "vessels", "cilia", "em", "membrane", "brightfield", "histology", "fluorescence"),
)

_THINLY = (
    *KINDS,
    *(2 * THIN_KINDS),
    *("neurites", "cilia", "em", "fluorescence", "fluorescence", "spots", "histology", "brightfield"),
)

_FAR = (
    *KINDS,
    *(3 * THIN_KINDS),
    *("vessels", "neurites", "neurites", "filaments", "em", "fluorescence", "spots", "spots", "histology"),
)

_FAR_AND_SMALL = (
    *KINDS,
    *(2 * THIN_KINDS),
    *("vessels", "neurites", "filaments", "spots", "spots", "brightfield", "fluorescence"),
)

_FAR_PLAN = CropPlan(side=256, objects=4)

_FAR_FITTED = replace(
    _FITTED, plan=_FAR_PLAN, batch=4, steps=2700, rate=1.2e-3, object_weight=0.5, kinds=_FAR
)
"""Crops in which a vessel or a fibre is long."""

_THINLY_FITTED = replace(_FITTED, steps=5000, rate=9e-4, kinds=(*_THINLY, *THIN_KINDS, "fluorescence"))

_JUDGED_ANEW = replace(
    _JUDGED,
    plan=AnswerPlan(scenes=2000, images=430, objects=(8, 8), image_share=0.2, left_out=0.3),
    steps=3000,
    kinds=(*KINDS, *THIN_KINDS, *KINDS, "neurites", "cilia", "vessels"),
)
"""As masks are once they were changed as a whole."""

_SUITED = replace(
    _JUDGED_ANEW,
    plan=AnswerPlan("ways", scenes=1240, images=260, objects=(3, 3), image_share=0.2, left_out=0.35),
    rate=2e-3,
    learns=("choice",),
)
"""Which answers fine boundaries are for."""

SAM2_HQ_NANO = Recipe(
    "sam2-hq-nano",
    stages=(
        _OUTLINES,
        _FITTED,
        _FITTED,
        _WIDELY_FITTED,
        replace(_WIDELY_FITTED, steps=1300, rate=1e-3),  # once all of the base had moved on
        replace(_WIDELY_FITTED, steps=1200, rate=1e-3),  # once again
        replace(_FITTED, steps=1800, rate=1.2e-3, kinds=_EVENLY),  # with a head that sees further
        replace(_FITTED, steps=1200, rate=9e-4, kinds=_THINLY),
        _THINLY_FITTED,
        replace(_THINLY_FITTED, steps=3400),  # once the decoder handed on what it is told
        _FAR_FITTED,  # with masks that are changed as a whole first
        replace(
            _FAR_FITTED, plan=replace(_FAR_PLAN, magnified=0.4), steps=900, rate=6e-4, kinds=_FAR_AND_SMALL
        ),
        _JUDGED_ANEW,
        _SUITED,
    ),
    weight_decay=0.01,
    base="sam2-nano",
    learns=(".fine.",),
)

_FOLLOWED_OFTENER = (*(2 * ("sheet", "shells")), *(3 * ("tubes", "phase")))

_FOLLOWED = Stage(
    3200,
    ClipPlan(again=_FOLLOWED_OFTENER),
    batch=4,
    rate=6e-4,
    last_rate=0.0,
    object_weight=0.5,
    absent_weight=1.2,
)

_WEIGHED_PLAN = ClipPlan(  # windows as objects are followed in
    usual=WindowPlan(128, frames=10, sizes=(36.0, 68.0)),
    large=WindowPlan(160, frames=8, sizes=(46.0, 72.0)),
    large_share=0.45,
    still_share=0.15,
    moving_share=0.85,
    strides=(1, 1, 1, 2),
    again=(*_FOLLOWED_OFTENER, "rods", "cells"),
)

_WEIGHED = replace(
    _FOLLOWED,
    steps=1200,
    plan=_WEIGHED_PLAN,
    rate=2e-3,
    absent_weight=1.5,
    learns=(".memory.opinion.",),
)

SAM2_NANO_MEMORY = Recipe(
    "sam2-nano-memory",
    stages=(
        Stage(4300, ClipPlan(), batch=4, rate=5e-4, last_rate=1e-4),
        Stage(900, ClipPlan(), batch=4, rate=1.5e-4, last_rate=0.0),
        Stage(1500, ClipPlan(), batch=4, rate=3.5e-4, last_rate=0.0),  # once the base's decoder had moved on
        Stage(3300, ClipPlan(), batch=4, rate=4e-4, last_rate=0.0),  # once all of the base had
        Stage(
            1500, ClipPlan(), batch=4, rate=5e-4, last_rate=0.0, object_weight=0.5, absent_weight=2.0
        ),  # once again
        Stage(
            2300,
            ClipPlan(again=("sheet", "sheet", "shells", "shells", "tubes", "tubes", "phase", "phase")),
            batch=4,
            rate=6e-4,
            last_rate=0.0,
            object_weight=0.5,
            absent_weight=1.5,
        ),
        replace(_FOLLOWED, kept=0.5),
        replace(_FOLLOWED, steps=1900),  # with a decoder that hands on what it is told
        _WEIGHED,
        replace(_WEIGHED, steps=560, plan=replace(_WEIGHED_PLAN, spoilt_share=0.15)),
    ),
    weight_decay=0.02,
    base="sam2-nano",
    learns=(".memory.",),
    model="sam2-nano",
)

_NESTED_KINDS = (
    *KINDS,
    *(3 * ("composite", "phase", "em", "histology", "brightfield", "membrane")),  # what nests
    *(2 * ("fluorescence", "spots")),
    *("cilia", "neurites", "vessels"),
)

_WIDE_PLAN = NestedPlan(side=256, objects=10, zoom=(0.35, 2.2), seen=28)

_WIDE = Stage(
    3000,
    _WIDE_PLAN,
    batch=5,
    rate=6e-4,
    last_rate=3e-4,
    scene_share=0.85,
    kinds=_NESTED_KINDS,
)

_WIDER_PLAN = NestedPlan(side=384, objects=16, zoom=(0.7, 1.6), seen=32)

_WIDER = Stage(
    1100,
    _WIDER_PLAN,
    batch=2,
    rate=3e-4,
    last_rate=0.0,
    scene_share=0.9,
    kinds=_NESTED_KINDS,
)

_SMALL_AND_LARGE = ("nucleolus", "nucleolus", "spot", "colony")

_BEHIND_TRUNK = ("query_decoder", "pixel_decoder", "word_scores", "text_encoder")

SEMANTIC_NANO = Recipe(
    "semantic-nano",
    stages=(
        Stage(
            3600,
            NestedPlan(side=192, objects=8),
            batch=8,
            rate=8e-4,
            last_rate=6e-4,
            scene_share=0.85,
            kinds=_NESTED_KINDS,
        ),
        _WIDE,
        _WIDER,
        replace(_WIDE, steps=2200, rate=4.5e-4, last_rate=2.5e-4),
        replace(_WIDER, steps=600, rate=2.5e-4),
        replace(
            _WIDE,
            plan=replace(_WIDE_PLAN, magnified=0.4),
            steps=1700,
            rate=4e-4,
            last_rate=0.0,
            kept=0.5,
        ),
        replace(
            _WIDE,
            plan=replace(_WIDE_PLAN, magnified=0.3, again=_SMALL_AND_LARGE),
            steps=2000,
            rate=6e-4,
            last_rate=1.5e-4,
            learns=_BEHIND_TRUNK,
        ),
        replace(
            _WIDER,
            plan=replace(_WIDER_PLAN, again=_SMALL_AND_LARGE),
            steps=500,
            rate=1.5e-4,
            learns=_BEHIND_TRUNK,
        ),
        replace(  # nothing that a crop shows is left out: places of objects without prompts
            _WIDE,
            plan=replace(_WIDE_PLAN, objects=2, seen=64),
            steps=360,
            rate=1e-3,
            last_rate=0.0,
            learns=("query_decoder.seed",),
        ),
    ),
    trunk_of="sam2-nano",
    trunk_share=0.5,
    clip=5.0,
)

RECIPES = {recipe.name: recipe for recipe in (SAM2_NANO, SAM2_NANO_MEMORY, SAM2_HQ_NANO, SEMANTIC_NANO)}


def recipe_of(name: str) -> Recipe:
    """Return a recipe by its model's name."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownModelError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}") from None
