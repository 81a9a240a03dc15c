"""One golden case: read, run by its family's module, compared output by output."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from napari_segany.models.weights import read_weights

CASES = Path(__file__).parent / "cases"
FAMILIES = {
    "SAM 2 image predictor": "sam2_image",
    "SAM 2 video predictor": "sam2_video",
    "SAM 2 legacy video predictor": "sam2_video",
    "HQ-SAM 2": "hq2",
    "EdgeTAM": "edgetam",
    "SAM": "sam",
    "MobileSAM": "sam",
    "HQ-SAM": "sam",
    "micro-sam AIS decoder (torch_em UNETR, DecoderAdapter)": "ais",
    "Semantic-SAM": "semantic",
}
"""Which module of this package runs a family, by the `family` of its `case.json`."""

FLOOR = 1e-5  # of an output's scale: what float32 itself leaves open
FACTOR = 3.0  # times the change under a disturbance of the weights by 1e-6
ROUNDED_FACTOR = 4.0
"""The same, of what is followed with memories in bfloat16: a feature that lies between two such numbers becomes either,
by the order in which a CPU adds up. With AVX2 one output is 3.3 times off that is exact with other instructions."""
_ROUNDED_FAMILIES = ("SAM 2 video predictor", "SAM 2 legacy video predictor")
_EXACT_SESSION = "fp32_memory/"


class UnsupportedCaseError(Exception):
    """A folder that is no case, of a family without a module, or with a setting that no model here has."""


@dataclass(frozen=True)
class Case:
    """A case's description and tensors."""

    folder: Path
    description: dict[str, Any]  # JSON
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    def allowance(self, name: str, *, theirs: Tensor) -> float:
        """Return the largest difference that an output may have."""
        change = self._conditioning.get(name, {})
        factor = ROUNDED_FACTOR if self._is_rounded(name) else FACTOR
        return max(FLOOR * self.scale(name, theirs=theirs), factor * change.get("max_abs_change", 0.0))

    def scale(self, name: str, *, theirs: Tensor) -> float:
        """Return the largest magnitude of an output."""
        largest = float(theirs.abs().max()) if theirs.numel() else 0.0
        return max(largest, 1e-12)

    def _is_rounded(self, name: str) -> bool:
        """Whether memories that were stored in bfloat16 are behind an output."""
        return self.description.get("family") in _ROUNDED_FAMILIES and not name.startswith(_EXACT_SESSION)

    @property
    def _conditioning(self) -> dict[str, dict[str, float]]:
        changes = self.description.get("conditioning", {}).get("changes", {})
        return {name: change for name, change in changes.items() if isinstance(change, dict)}


@dataclass(frozen=True)
class Comparison:
    """How one output compares: `worst` and `allowed` relative to its scale."""

    name: str
    worst: float
    allowed: float
    passes: bool
    note: str = ""

    def __str__(self) -> str:
        """One line of the report."""
        verdict = "PASS" if self.passes else "FAIL"
        return f"{self.name:<36} {self.worst:>10.2e} {self.allowed:>10.2e}  {verdict}  {self.note}".rstrip()


def read_case(folder: Path) -> Case:
    """Return the case in a folder."""
    description_file = folder / "case.json"
    if not description_file.is_file():
        raise UnsupportedCaseError(f"{folder} is no golden case: it has no case.json")
    return Case(
        folder=folder,
        description=json.loads(description_file.read_text()),
        weights=read_weights(folder / "weights.safetensors"),
        io=load_file(folder / "io.safetensors"),
    )


def compare(case: Case) -> Iterator[Comparison]:
    """Run a case and yield how each of its outputs compares."""
    module = importlib.import_module(f"{__package__}.{_module_of(case)}")
    with torch.inference_mode():
        ours: dict[str, Tensor] = module.outputs(case)
    for name in sorted(case.io.keys() - module.INPUTS):
        theirs = case.io[name]
        if name not in ours:
            yield Comparison(name, float("inf"), 0.0, False, "not computed")
        elif ours[name].shape != theirs.shape:
            shapes = f"shape {tuple(ours[name].shape)} instead of {tuple(theirs.shape)}"
            yield Comparison(name, float("inf"), 0.0, False, shapes)
        elif theirs.dtype == torch.bool:
            yield _compare_masks(case, name, ours=ours)
        else:
            yield _compare_values(case, name, ours=ours[name])


def check_fixed(settings: dict[str, Any], fixed: dict[str, object]) -> None:  # JSON
    """Refuse a case with a setting that no released model has."""
    for name, value in fixed.items():
        if settings[name] != value:
            raise UnsupportedCaseError(f"{name} is {settings[name]!r}; the released models have {value!r}")


def _module_of(case: Case) -> str:
    """Return which module runs a case."""
    family = case.description.get("family")
    if family not in FAMILIES:
        raise UnsupportedCaseError(
            f"{case.folder}: no module runs the family {family!r} yet; there is one for {', '.join(FAMILIES)}"
        )
    return FAMILIES[family]


def _compare_values(case: Case, name: str, *, ours: Tensor) -> Comparison:
    """Compare numbers, by the largest difference."""
    theirs = case.io[name]
    scale = case.scale(name, theirs=theirs)
    worst = float((ours.double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
    allowed = case.allowance(name, theirs=theirs)
    return Comparison(name, worst / scale, allowed / scale, worst <= allowed)  # NaN does not pass


def _compare_masks(case: Case, name: str, *, ours: dict[str, Tensor]) -> Comparison:
    """Compare masks: a pixel may differ only where the logit is as good as zero."""
    differs = ours[name] != case.io[name]
    count = int(differs.sum())
    mask_logits, low_res = ours[f"{name}_logits"], name.removesuffix("/mask") + "/low_res"
    behind = case.io.get(low_res, mask_logits)  # not every case keeps the logits behind its masks
    allowed = case.allowance(low_res, theirs=behind)
    margin = float(mask_logits[differs].abs().max()) if count else 0.0
    scale = case.scale(low_res, theirs=behind)
    return Comparison(
        name,
        margin / scale,
        allowed / scale,
        margin <= allowed,
        f"{count} of {differs.numel()} pixels differ",
    )
