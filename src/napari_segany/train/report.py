"""The page of an evaluation: curves, tables, and pictures of the best, the middling and the worst, as one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .charts import Series, line_chart
from .results import BOUNDARY, WIDTHS

PAGE = "report.html"

_TITLES = {
    "images": "Labelled images that training held back",
    "scenes": "Fresh procedural scenes",
    "thin": "Fresh scenes with thin structures",
    "nested": "Everything that a click lies in",
    "finding": "Objects found without prompts",
    "video": "Objects followed through movies and stacks",
    "real": "Images of kinds that training never saw",
}
_PROTOCOLS = {
    "images": "Mean IoU over objects. The first click is the object's deepest point, each further one the deepest "
    "point of the larger error; noc80 and noc90 are the clicks until an IoU of 0.8 and 0.9, one more than were made "
    "where it was not reached; noisy_box has ends that are a tenth of a side off; refined is what came of a mask "
    "drawn by a hurried hand (coarse); boundary IoUs are of rims two pixels wide; harmed is the share of further "
    "clicks that lost more than 0.01; score_rank is Spearman's correlation of predicted and true IoU over all answers.",
    "nested": "Mean of each true mask's best IoU among the answers to one click, over clicks with several true masks "
    "(nested) and with one (single); named is the share of found masks that were named rightly.",
    "finding": "Segmentation accuracy TP / (TP + FP + FN), mean over images: at an IoU of 0.5 (ap50), of 0.75 (ap75), "
    "and over 0.5 to 0.95 (msa).",
    "video": "Mean IoU over object-frames after one click on one frame, and after corrections; absent is the share of "
    "frames without the object that were called so.",
    "real": "What the best answer to one click outlines. Nothing here has labels: look.",
}
_PROMPTED = (
    "objects", "click1", "click3", "click5", "click9", "noc80", "noc90", "box", "noisy_box", "coarse", "refined",
    "best_of_3", "boundary_iou", "box_boundary_iou", "harmed", "score_rank",
)  # fmt: skip
_NESTED = ("nested", "single", "ordered", "named")
_FOUND = ("images", "objects", "found", "msa", "ap50", "ap75")
_FOLLOWED = ("objects", "object_frames", "iou", "absent_frames", "absent", "swallowed")
_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 12px; margin: 1em 0; display: block; overflow-x: auto; }
th, td { padding: 2px 6px; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
figure { display: inline-block; margin: 4px; width: 224px; font-size: 12px; vertical-align: top; }
svg { max-width: 560px; height: auto; }
"""


def write_report(folder: Path, wholes: Sequence[tuple[str, Mapping[str, Any]]]) -> Path:
    """Write `folder/report.html` and return its path.

    Parameters
    ----------
    wholes
        For each model the folder with its pictures, relative to `folder` ("" for itself), and what `assess` returned;
        numbers stand beside each other.
    """
    parts = list(dict.fromkeys(part for _, whole in wholes for part in whole["parts"]))
    called = [str(whole["model"]) for _, whole in wholes]
    if len(set(called)) < len(called):  # two weights of one model
        called = [f"{name} {whole['weights'][:8]}" for name, (_, whole) in zip(called, wholes, strict=True)]
    names = " and ".join(called)
    body = [f"<h1>{escape(names)}</h1>"]
    body += [
        f"<p>{escape(name)}: weights <code>{whole['weights'][:16]}</code></p>"
        for name, (_, whole) in zip(called, wholes, strict=True)
    ]
    said: set[str] = set()
    for part in parts:
        protocol = _PROTOCOLS.get(part, _PROTOCOLS["images"])
        body.append(f"<h2>{_TITLES[part]}</h2>")
        body += [f"<p>{escape(protocol)}</p>"] if protocol not in said else []
        said.add(protocol)
        own = [
            (at, name, whole["parts"][part])
            for name, (at, whole) in zip(called, wholes, strict=True)
            if part in whole["parts"]
        ]
        body += _section(part, own)
    page = folder / PAGE
    head = f'<!doctype html>\n<meta charset="utf-8">\n<title>{escape(names)}</title>\n<style>{_STYLE}</style>'
    page.write_text("\n".join([head, *body, ""]))
    return page


def _section(part: str, own: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """Return a part as HTML: charts, tables, pictures of each model."""
    measured = {name: each["result"] for _, name, each in own if "left_out" not in each["result"]}
    lines = [
        f"<p>{escape(name)} was left out: {escape(each['result']['left_out'])}</p>"
        for _, name, each in own
        if "left_out" in each["result"]
    ]
    lines += [line_chart(series, across=across, is_marked=True) for across, series in _charts(part, measured)]
    for name, result in measured.items():
        lines += _tables(part, name, result)
    for at, name, each in own:
        for title, row in each["pictures"].items():
            lines.append(f"<h3>{escape(name)}: {escape(title)}</h3>")
            lines += [_figure(at, shown["file"], shown["caption"]) for shown in row]
    return lines


def _figure(at: str, file: str, caption: str) -> str:
    """Return a picture with its caption."""
    source = escape(f"{at}/{file}" if at else file, quote=True)
    return (
        f'<figure><img src="{source}" width="224" alt=""><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _charts(part: str, measured: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, Series]]:
    """Yield what is across and the lines of each chart of a part."""
    if not measured:
        return
    if part in ("images", "scenes", "thin"):
        yield "clicks", {name: _numbered(result, "click") for name, result in measured.items()}
        lines: dict[str, list[tuple[float, float]]] = {}
        for name, result in measured.items():
            for kind in ("boundary_iou", "box_boundary_iou"):
                lines[f"{name} {kind.removesuffix('_iou').replace('_', ' ')}"] = [
                    (width, result[kind if width == BOUNDARY else f"{kind}_{width}"]) for width in WIDTHS
                ]
        yield "pixels of the rim", lines
    if part == "nested":
        yield (
            "level",
            {
                name: [(int(level), iou) for level, iou in result["by_level"].items()]
                for name, result in measured.items()
            },
        )
    if part == "video":
        yield (
            "frames from the nearest prompt",
            {
                f"{name} {turn} corr.": [
                    (int(d), iou) for d, iou in values["drift"].items() if iou is not None
                ]
                for name, result in measured.items()
                for turn, values in result["by_corrections"].items()
            },
        )


def _numbered(result: Mapping[str, Any], name: str) -> list[tuple[float, float]]:
    """Return the points of measures whose names end in a number, such as click1 and click2."""
    found = [(int(key.removeprefix(name)), value) for key, value in result.items() if key.startswith(name)]
    return sorted(found)


def _tables(part: str, name: str, result: Mapping[str, Any]) -> Iterable[str]:
    """Yield a part's tables of one model: everything, then each of its groups."""
    if part == "real":
        return
    measures, groups = {
        "nested": (_NESTED, ("by_kind",)),
        "finding": (_FOUND, ("by_modality",)),
        "video": (_FOLLOWED, ("by_corrections", "by_axis", "by_kind")),
    }.get(part, (_PROMPTED, ("by_modality", "by_size", "by_gap")))
    rows = {name: result}
    for group in groups:
        title = group.removeprefix("by_")
        rows |= {f"{title}: {key}": values for key, values in result[group].items()}
    yield _table(measures, rows)
    found = result.get("without_prompts")
    if found:
        yield _table(tuple(found), {f"{name}, without prompts": found})


def _table(measures: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a table with a row for each group."""
    lines = [
        "<table><tr><th></th>"
        + "".join(f"<th>{escape(m.replace('_', ' '))}</th>" for m in measures)
        + "</tr>"
    ]
    for name, values in rows.items():
        cells = "".join(f"<td>{_shown(values.get(measure))}</td>" for measure in measures)
        lines.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _shown(value: object) -> str:
    """Return a number as text; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))
