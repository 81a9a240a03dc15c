"""Models by name or by file, ready to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from napari_segany.core.errors import UnknownModelError, WeightsError
from napari_segany.core.types import ModelCard
from napari_segany.models.build import CONFIGS, build_model, key_map_of
from napari_segany.models.download import Progress, find_decoder, find_weights, origin_sha256
from napari_segany.models.image_model import ImageModel, ImageModelConfig
from napari_segany.models.layers import fold_norms
from napari_segany.models.registry import list_models, spec_of
from napari_segany.models.unetr import UnetrDecoder, unetr_config_of
from napari_segany.models.weights import identify, load_strictly, read_weights, split_decoder

from .engines import check_engine, use_engine
from .precision import Placement, place


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A loaded model: its network, where it runs, and what provenance needs to say.

    `decoder` finds every object without prompts, in micro-sam's models.
    """

    card: ModelCard
    network: ImageModel
    placement: Placement
    decoder: UnetrDecoder | None = None

    @property
    def config(self) -> ImageModelConfig:
        """The row that the network was built from."""
        return self.network.config


def load_model(
    name_or_path: str | Path = "sam2-nano",
    *,
    device: str = "auto",
    precision: str = "auto",
    engine: str = "torch",
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
    engine
        What runs the image encoder: "torch"; "openvino" on a CPU (needs the extra of that name; converts once);
        "compile", PyTorch's compiler, whose first image takes long.
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
        If the machine lacks the device, or the engine does not run on it.
    SettingsError
        If no engine has that name.
    MissingExtraError
        If the engine is not installed.
    """
    placement = place(device, precision)
    check_engine(engine, placement)
    name, path = _locate(name_or_path, progress=progress)
    weights, decoder = split_decoder(read_weights(path))
    if name is not None and decoder is None:
        beside = find_decoder(spec_of(name), progress=progress)
        decoder = None if beside is None else _decoder_weights(beside)
    name = name or identify(weights)
    if name is None or name not in CONFIGS:
        names = ", ".join(spec.name for spec in list_models())
        raise WeightsError(f"{path} holds {len(weights)} tensors that fit no known model; known are {names}")
    card = ModelCard(
        name,
        origin_sha256(path),
        licence=spec_of(name).licence,
        has_fine=CONFIGS[name].has_fine,
        finds_instances=decoder is not None or spec_of(name).has_seeds,
        number_format=_number_format(placement, engine),
        has_words=CONFIGS[name].has_words,
        has_ladder=spec_of(name).family == "semantic",
    )
    return assemble(card, weights, placement=placement, where=str(path), decoder=decoder, engine=engine)


def assemble(
    card: ModelCard,
    weights: dict[str, Tensor],
    *,
    placement: Placement,
    where: str,
    decoder: dict[str, Tensor] | None = None,
    engine: str = "torch",
) -> Model:
    """Return a ready model of a row's name (`card.name`) from its weights; `where` names their origin in errors.

    `decoder` are the weights of micro-sam's instance decoder, if there is one; for `engine` see `load_model`.
    """
    config = CONFIGS[card.name]
    with torch.device("meta"):
        network = build_model(config)
    load_strictly(network, weights, key_map=key_map_of(config), where=where)
    finder = None
    if decoder is not None:
        with torch.device("meta"):
            finder = UnetrDecoder(unetr_config_of(decoder))
        load_strictly(finder, decoder, where=f"the instance decoder of {where}")
        _freeze(finder).to(placement.encoder_dtype)
        finder.to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this pair
    _freeze(network)
    use_engine(engine, network, card=card, placement=placement)
    return Model(card, _prepare(network, placement), placement, finder)


def _number_format(placement: Placement, engine: str) -> str:
    """Return what an encoder computes in, and by which engine: no two have the same bits."""
    name = str(placement.encoder_dtype).removeprefix("torch.")
    return name if engine == "torch" else f"{name}, {engine}"


def _decoder_weights(path: Path) -> dict[str, Tensor]:
    """Return the instance decoder in a file of its own."""
    weights, decoder = split_decoder(read_weights(path))
    return weights if decoder is None else decoder


def _locate(name_or_path: str | Path, *, progress: Progress | None) -> tuple[str | None, Path]:
    """Return (name, file) of a registry name, or (None, file) of a path."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return None, path
    if isinstance(name_or_path, Path) or path.suffix in (".pt", ".pth", ".safetensors"):
        raise UnknownModelError(f"there is no weights file {path}")
    spec = spec_of(name_or_path)
    return spec.name, find_weights(spec, progress=progress)


def _prepare(network: ImageModel, placement: Placement) -> ImageModel:
    """Return the network as it predicts fastest: frozen, norms folded, encoder in its format, on its device."""
    _freeze(network)
    for part in (*network.encoder_parts(), *network.memory_parts()):
        part.to(placement.encoder_dtype)
    return network.to(placement.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this pair


def _freeze(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module for inference: no gradients, batch norms folded into their convolutions."""
    module.eval().requires_grad_(requires_grad=False)
    fold_norms(module)
    return module
