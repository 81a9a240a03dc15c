"""Model cards: what a bundled model is, how it was made, how well it does and where it fails, as measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_segany.models.registry import spec_of
from napari_segany.models.weights import find_weights, read_metadata, read_weights, sha256_of

_MEASURES = (
    "click1", "click3", "click5", "noc90", "box", "noisy_box", "refined", "best_of_3", "boundary_iou",
    "box_boundary_iou",
)  # fmt: skip
_HEADINGS = {
    "images": "Validation nuclei",
    "scenes": "Fresh scenes",
    "thin": "Fresh scenes with thin structures",
}


@dataclass(frozen=True, slots=True)
class CardText:
    """The parts of a card that no evaluation can write."""

    title: str
    summary: str
    data: str
    hardware: str
    limits: tuple[str, ...]


SAM2_NANO = CardText(
    title="sam2-nano",
    summary=(
        "The bundled default of napari-segany: SAM 2's prompt encoder and mask decoder (width 128, embedding at stride "
        "8, masks at stride 2) over a convolution and transformer trunk for laptop CPUs; clicks and boxes are also "
        "drawn into the dense prompt. It follows objects through stacks and movies in windows that go with them, with "
        "a memory that was trained on top of the frozen image model."
    ),
    data=(
        "Procedural scenes of nine kinds (`segany scenes`), movies and stacks of eight, all rendered while training, "
        "and the training part (four fifths) of 549 images of the 2018 Data Science Bowl, stage 1 (Broad Institute, "
        "BBBC038; public domain, CC0)."
    ),
    hardware="one to two CPU cores with bfloat16 instructions, shared with other work",
    limits=(
        "Trained on nuclei and on synthetic scenes: other real microscopy is outside of what was measured.",
        "Images are seen at their own size, between 512 and 1280 pixels on the longer side: objects under about 8 of "
        "those pixels are often missed or merged with their neighbours; crop large images around what matters.",
        "A click on nested structures (nucleus in cell in colony) is ambiguous: in the worst of the scenes, a click "
        "that falls on a vesicle of a cell is answered with the vesicle, and one on a spot with the nucleus around it. "
        "Look at all three masks.",
        "A faint nucleus among bright ones that touch it may be answered with all of them, and a short or faint "
        "filament with a longer one beside it or with the texture around: draw a box.",
        "A small nucleus that touches a large one may be answered with both, and one of a row that touch side by side "
        "with all of them; one that divides with a fleck of it.",
        "In stained tissue it finds nuclei on a pale ground; between densely stained membranes a click may take the "
        "whole region, and one into a gland takes a nucleus of it: draw a box around the gland.",
        "Now and then a click at the image's edge is answered with a neighbour that looks alike.",
        "What leaves a movie is looked for where it was seen last, and about every second time something else "
        "comes back in its place (29 of 59 returns in 160 clips): look at both sides of a gap, which the timeline "
        "marks.",
        "An object that ends may be followed on into what touches it or looks alike: something is shown on 7 % of "
        "the frames without it (200 clips; 11 % in the worst 40), most often in sheets and among crowded cells.",
        "The predicted IoU ranks masks; it is not a calibrated probability.",
    ),
)


SAM2_HQ_NANO = CardText(
    title="sam2-hq-nano",
    summary=(
        "`sam2-nano`, frozen, with a small network for fine boundaries: around outlines, where the base is unsure, it "
        "looks at the frame's own pixels and decides anew, neighbouring places together, at the frame's full "
        "resolution (after HQ-SAM and PointRend). Before that, whole masks change by what lies around them, so that "
        "vessels and fibres go on where the base stops, and a judge of its own says which of them comes first. What "
        "either would gain is foretold for each answer: one that would hardly gain stays as the base draws it. "
        "Switched off (`fine=False`), it answers as `sam2-nano` does."
    ),
    data=(
        "Procedural scenes (`segany scenes`), those with thin structures (`--kinds thin`) more often than others, and "
        "the training part of the same 549 images as `sam2-nano`."
    ),
    hardware="two CPU cores with bfloat16 instructions, shared with other work",
    limits=(
        "What the base does not see at all (its logits far below zero) stays missing.",
        "A thin object that the base cuts into pieces is joined at times; a click on a vessel has an IoU of .2, "
        "and in the worst of the scenes it is answered with other branches, or with the disc they leave, in shreds: "
        "draw a box.",
        "On small and round things its outlines are the base's, or no better: in boundary IoU, from a click and with a "
        "box, .6 above and 1.1 below in bright field, .4 above and .3 below in fluorescence, .1 below and .1 above in "
        "histology. A filament among many that cross is found less surely in some scenes (1.0 below, 1.7 above in "
        "others, from a click).",
        "The limits of `sam2-nano` apply.",
    ),
)

SEMANTIC_NANO = CardText(
    title="semantic-nano",
    summary=(
        "Six masks from one click or box, from the finest thing it lies in to the coarsest, with names; and objects "
        "and their parts without prompts. Semantic-SAM's form (deformable pixel decoder, six queries for a prompt, box "
        "refinement, mask, box, IoU and word heads) over the trunk of `sam2-nano`, which was trained further. Pixels "
        "also vote for the middle of their object, after EmbedSeg, so that touching cells come apart. Levels follow "
        "area, so a coarser level is never a smaller mask. All six change by what lies around them, together."
    ),
    data=(
        "Procedural scenes (`segany scenes`) with everything that lies in everything else, named, rendered while "
        "training, and the training part of the same 549 images as `sam2-nano`, whose objects are called nuclei."
    ),
    hardware="one to two CPU cores without bfloat16 instructions, on top of the 1.6 hours of two earlier runs "
    "(docs/develop/training.md)",
    limits=(
        "It was taught the names of what the scenes show and that real nuclei are nuclei: names of other real things "
        "are guesses, and other words than its own go by their letters.",
        "What a cell is, as against its nucleus or its colony, it learnt from scenes alone.",
        "Negative clicks and further clicks choose among masks; they do not bend one. To correct a mask, use "
        "`sam2-nano`.",
        "Objects of a few pixels (spots, nucleoli) are missed at times, and whole colonies cut short.",
        "A level at which nothing is to be found may show ragged pieces, with a low score: Auto takes the best score.",
        "On real stained sections it needs to see things large: in a picture of 512 pixels a click on a nucleus finds "
        "the epithelium at every level, in 128 pixels of it (seen enlarged) nucleus, cell and epithelium; see "
        "docs/levels.md. Outlines there are rough.",
        "It follows no objects through stacks.",
    ),
)

CARDS = {text.title: text for text in (SAM2_NANO, SAM2_HQ_NANO, SEMANTIC_NANO)}


def write_card_of(
    path: Path, model: str, *, whole: Mapping[str, Any], other: Mapping[str, Any] | None = None
) -> bool:
    """Write the card of a model that a recipe made, and return whether there was one to write.

    Parameters
    ----------
    model
        A name, or a weights file.
    whole, other
        Its evaluation, from `assess`, and that of another model to stand beside it.
    """
    name = str(whole["model"])
    weights = Path(model) if Path(model).is_file() else find_weights(spec_of(model))
    if name not in CARDS or "recipe" not in read_metadata(weights):
        return False
    results = {part: each["result"] for part, each in whole["parts"].items()}
    beside = {} if other is None else {part: each["result"] for part, each in other["parts"].items()}
    following, finding = results.get("video"), results.get("finding")
    write_card(
        path,
        weights=weights,
        text=CARDS[name],
        evaluations={heading: results[part] for part, heading in _HEADINGS.items() if part in results},
        following=None if following is None or "left_out" in following else following,
        nested={"model": results["nested"], "against": beside.get("nested")} if "nested" in results else None,
        finding=None if finding is None or "left_out" in finding else finding,
    )
    return True


def write_card(
    path: Path,
    *,
    weights: Path,
    text: CardText,
    evaluations: dict[str, dict[str, object]],
    following: dict[str, Any] | None = None,
    nested: dict[str, Any] | None = None,
    finding: dict[str, Any] | None = None,
) -> None:
    """Write a card in Markdown.

    Parameters
    ----------
    weights
        The packed file; its header says how it was trained.
    text
        Title, data, limits.
    evaluations
        Heading to the result of `Evaluation.as_dict`.
    following
        Result of `VideoEvaluation.as_dict`, if the model follows objects.
    nested
        What `segany evaluate --nested --against` prints as JSON; "against" may be None.
    finding
        Result of `FindingEvaluation.as_dict`, if the model finds objects without prompts.
    """
    lines = [f"# {text.title}", "", text.summary, "", *_facts(weights, text), "", *_PROTOCOL, ""]
    for heading, result in evaluations.items():
        lines += [f"## {heading}", "", *_table(result), ""]
    if following is not None:
        lines += ["## Following objects through procedural movies and stacks", "", *_followed(following), ""]
    if nested is not None:
        lines += ["## Everything that a click lies in", "", *_nested(nested), ""]
    if finding is not None:
        lines += ["## Every object of an image, without prompts", "", *_found(finding), ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in text.limits), ""]
    path.write_text("\n".join(lines))


_PROTOCOL = (
    "Mean IoU over objects. `clickN`: after N clicks, the first on the object's deepest point, each further one on the",
    "deepest point of the larger error; `noc90`: clicks until 0.9, 10 where nine did not do; `box`: its exact box;",
    "`noisy_box`: one whose ends are a tenth of a side off; `refined`: of a mask that a hurried hand drew;",
    "`best_of_3`: the best of the first click's masks; `boundary_iou`: rims two pixels wide after one click;",
    "`box_boundary_iou`: with the box.",
)


def _facts(weights: Path, text: CardText) -> list[str]:
    """Return licence, size, hash, data and recipe as list items."""
    header = read_metadata(weights)
    values = sum(tensor.numel() for tensor in read_weights(weights).values())
    facts = [
        f"- **Licence**: {header['licence']}",
        f"- **Size**: {values / 1e6:.2f} M values in {weights.stat().st_size / 1e6:.1f} MB (int8 rows, float16 scales)",
        f"- **SHA-256**: `{sha256_of(weights)}`",
        f"- **Data**: {text.data}",
        *_training(header, text),
    ]
    if "memory_recipe" in header:
        own = {k.removeprefix("memory_"): v for k, v in header.items() if k.startswith("memory_")}
        facts += [
            "- **Following**, learnt on top of the frozen image model:",
            *_training(own, text, indent="  "),
        ]
    return facts


def _training(header: dict[str, str], text: CardText, *, indent: str = "") -> list[str]:
    """Return the recipe and what was chosen as list items."""
    recipe = json.loads(header["recipe"])
    stages = "; ".join(
        f"{s['steps']} steps on {_cut(s['plan'])}, batch {s['batch']}{_objects(s['plan'])}, "
        f"learning rate {s['rate']:g} to {s['last_rate']:g}"
        + (f", {s['wide_share']:.0%} of the batches on {_cut(s['wide'])}" if s.get("wide") else "")
        + (f", {s['clip_share']:.0%} of the scenes frames of clips" if s.get("clip_kinds") else "")
        + (
            f", {spoilt:.0%} of the followed masks spoilt"
            if (spoilt := s["plan"].get("spoilt_share"))
            else ""
        )
        + (f", mixed with {s['kept']:.0%} of the weights before" if s.get("kept") else "")
        for s in recipe["stages"]
    )
    hours = int(header["seconds"]) / 3600
    return [
        f"{indent}- **Recipe**: `segany train --recipe {recipe['name']}`: {stages}; seed {recipe['seed']}; AdamW",
        f"{indent}- **Chosen**: averaged weights of step {header['step']}, the best by validation, after {hours:.1f} "
        f"hours on {text.hardware}",
    ]


def _objects(plan: dict[str, Any]) -> str:
    """Return in words how many objects each of a batch shows; of answers each is one."""
    return "" if "scenes" in plan else f" x {plan['objects']} objects"


def _cut(plan: dict[str, Any]) -> str:
    """Return in words what a training plan shows: windows of clips, answers to clicks, or crops of images."""
    if "usual" in plan:
        windows = (
            f"{plan[name]['frames']} windows of {plan[name]['side']} pixels" for name in ("usual", "large")
        )
        return "clips of " + " or ".join(windows)
    if "scenes" in plan:
        if plan.get("about") == "sides":
            return f"how large objects are, at clicks on {plan['scenes']} scenes and {plan['images']} images"
        taught = "what fine boundaries gain" if plan.get("about") == "ways" else "the judge"
        return f"{taught}, on answers to clicks on {plan['scenes']} scenes and {plan['images']} images"
    return f"crops of {plan['side']} pixels"


def _table(result: dict[str, object]) -> list[str]:
    """Return a Markdown table: all objects, then by modality, by size in pixels, and by how far the next one is."""
    rows: dict[str, dict[str, object]] = {f"all ({result['images']} images)": result}
    for group in ("by_modality", "by_size", "by_gap"):
        part = result[group]
        assert isinstance(part, dict)
        suffix = " pixels" if group == "by_size" else ""
        rows |= {f"{name}{suffix}": values for name, values in part.items()}
    head = "| | objects | " + " | ".join(_MEASURES) + " |"
    lines = [head, "|---|" + "---|" * (len(_MEASURES) + 1)]
    for name, values in rows.items():
        cells = " | ".join(f"{float(str(values[m])):.3f}" for m in _MEASURES)
        lines.append(f"| {name} | {values['objects']} | {cells} |")
    numbers = {key: float(str(result[key])) for key in ("score_rank", "best_of_3", "click1", "harmed")}
    return [
        *lines,
        "",
        f"Predicted IoUs rank the answers at {numbers['score_rank']:.2f}; the best of them is "
        f"{100 * (numbers['best_of_3'] - numbers['click1']):.1f} points above the one that comes first. Of further "
        f"clicks {100 * numbers['harmed']:.0f} % made a mask worse.",
    ]


def _found(result: dict[str, Any]) -> list[str]:
    """Return the protocol of finding in words, and a Markdown table, by modality."""
    rows = {f"all ({result['images']} images)": result} | result["by_modality"]
    lines = [
        "Segmentation accuracy TP / (TP + FP + FN) of flat labels, mean over images: over IoUs of 0.5 to 0.95 (`msa`),",
        "at 0.5 and at 0.75.",
        "",
        "| | objects | found | msa | ap50 | ap75 |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in rows.items():
        cells = " | ".join(f"{values[m]:.3f}" for m in ("msa", "ap50", "ap75"))
        lines.append(f"| {name} | {values['objects']} | {values['found']} | {cells} |")
    return lines


def _followed(result: dict[str, Any]) -> list[str]:
    """Return the protocol of following in words, and a Markdown table: after each correction, then by kind."""
    how = f"--clips {result['clips']} --corrections {result['corrections']} --clicks {result['clicks_per_correction']}"
    lines = [
        f"`segany evaluate --video {how}`, {result['frames']} frames: mean IoU over",
        "object-frames after one click on one frame of each object, and after corrections; the share of frames without",
        "the object that were called so; the share of frames beside divisions in which a mask takes a neighbour.",
        "",
        "| | objects | one click | corrected | absent | swallowed |",
        "|---|---|---|---|---|---|",
    ]
    for turn, values in result["by_corrections"].items():
        name = "one click" if turn == "0" else f"{turn} correction{'s' if turn != '1' else ''}"
        ious = (values["iou"], None) if turn == "0" else (None, values["iou"])
        lines.append(_row(name, values, ious))
    for name, values in (result["by_axis"] | result["by_kind"]).items():
        title = {"t": "movies", "z": "stacks"}.get(name, name)
        lines.append(_row(title, values, (values["iou_of_one_click"], values["iou"])))
    return lines


def _row(name: str, values: dict[str, Any], ious: tuple[float | None, float | None]) -> str:
    """Return one line of a table."""
    shown = (*ious, values["absent"], values["swallowed"])
    cells = " | ".join("" if value is None else f"{value:.3f}" for value in shown)
    return f"| {name} | {values['objects']} | {cells} |"


def _nested(result: dict[str, Any]) -> list[str]:
    """Return the protocol of nested masks in words, and a table, by kind, beside another model if there is one."""
    own, other = result["model"], result["against"]
    against = "" if other is None else f" --against {other['model']}"
    lines = [
        f"`segany evaluate --nested --model {own['model']} --scenes {own['scenes']}{against}`: {own['clicks']} clicks",
        "on fresh procedural scenes; `nested`: mean over clicks with two true masks or more, of each true mask's best",
        "IoU; `single`: the other clicks; `named`: share of found masks that were named rightly.",
        "",
        "| | nested | single | named |" + ("" if other is None else " nested of the other |"),
        "|---|---|---|---|" + ("" if other is None else "---|"),
    ]
    for name, one in {"all": own, **own["by_kind"]}.items():
        cells = [one["nested"], one["single"], one["named"]]
        if other is not None:
            cells.append((other if name == "all" else other["by_kind"][name])["nested"])
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" if value else "" for value in cells) + " |")
    levels = ", ".join(f"{level}: {iou:.3f}" for level, iou in own["by_level"].items())
    lines += ["", f"Best IoU by the level of the true mask, 1 (finest) to 6: {levels}."]
    found = own.get("without_prompts")
    if found is not None:
        lines += [
            "",
            f"Without prompts, {found['truths']} objects and parts: average precision at half IoU {found['ap50']:.3f}",
            f"(objects {found['ap50_objects']:.3f}, parts {found['ap50_parts']:.3f}); of those that were found, "
            f"{found['named']:.3f} were named rightly.",
        ]
    return lines
