"""Models by name or by file, ready to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from napari_segany.core.errors import UnknownModelError, WeightsError
from napari_segany.core.types import ModelCard
from napari_segany.models.download import Progress
from napari_segany.models.nano import fold_norms
from napari_segany.models.registry import list_models, spec_of
from napari_segany.models.sam2 import SAM2, Sam2, Sam2Config, build_sam2
from napari_segany.models.weights import find_weights, identify, load_strictly, read_weights, sha256_of

from .precision import Placement, place


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded model: its network, where it runs, and what provenance needs to say."""

    card: ModelCard
    network: Sam2
    placement: Placement

    @property
    def config(self) -> Sam2Config:
        """The row that the network was built from."""
        return self.network.config


def load_model(
    name_or_path: str | Path = "sam2-nano",
    *,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Model:
    """Load a model by its registry name (downloading it once where needed) or from a weights file.

    Parameters
    ----------
    name_or_path
        A name of `list_models()`, or the path of a `.safetensors`, `.pt` or `.pth` file of one of those models.
    device
        "auto", "cpu", "cuda", "cuda:1", "mps".
    precision
        "auto" (bfloat16 where the hardware has it), "reproducible" or "float32", "bfloat16", "float16".
    progress
        Called with (bytes done, bytes in all, what) during a download.

    Raises
    ------
    UnknownModelError
        If no row has that name and no file that path.
    WeightsError
        If the file is damaged, hostile, or of no known model.
    DownloadError
        If the weights cannot be had.
    DeviceError
        If the machine lacks the device.
    """
    placement = place(device, precision)
    name, path = _locate(name_or_path, progress=progress)
    weights = read_weights(path)
    name = name or identify(weights)
    if name is None or name not in SAM2:
        names = ", ".join(spec.name for spec in list_models())
        raise WeightsError(f"{path} holds {len(weights)} tensors that fit no known model; known are {names}")
    card = ModelCard(name, sha256_of(path), licence=spec_of(name).licence)
    return assemble(card, weights, placement=placement, where=str(path))


def assemble(card: ModelCard, weights: dict[str, torch.Tensor], *, placement: Placement, where: str) -> Model:
    """Return a ready model of a row's name (`card.name`) from its weights; `where` names their origin in errors."""
    with torch.device("meta"):
        network = build_sam2(card.name)
    load_strictly(network, weights, where=where)
    return Model(card, _prepare(network, placement), placement)


def _locate(name_or_path: str | Path, *, progress: Progress | None) -> tuple[str | None, Path]:
    """Return (name, file) of a registry name, or (None, file) of a path."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return None, path
    if isinstance(name_or_path, Path) or path.suffix in (".pt", ".pth", ".safetensors"):
        raise UnknownModelError(f"there is no weights file {path}")
    spec = spec_of(name_or_path)
    return spec.name, find_weights(spec, progress=progress)


def _prepare(network: Sam2, placement: Placement) -> Sam2:
    """Return the network as it predicts fastest: frozen, norms folded, encoder in its format, on its device."""
    network.eval().requires_grad_(requires_grad=False)
    fold_norms(network)
    for part in network.encoder_parts():
        part.to(placement.encoder_dtype)
    return network.to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this pair
