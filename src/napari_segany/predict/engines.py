"""What runs the image encoder: PyTorch as it is, PyTorch's compiler, or OpenVINO on a CPU.

Only the encoder is handed over: it takes nearly all of the time, and everything behind it keeps running in PyTorch, on
the same features. OpenVINO's own form of an encoder is made once and kept beside the downloaded weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from napari_segany import __version__
from napari_segany.core.errors import DeviceError, MissingExtraError, SettingsError
from napari_segany.core.types import ModelCard
from napari_segany.models.cache import digest_of, weights_dir, write_durably
from napari_segany.models.image_model import ImageModel, ImageModelConfig
from napari_segany.models.locks import held
from napari_segany.models.sam2 import NanoEncoder

from .precision import Placement

_logger = logging.getLogger(__name__)

ENGINES = ("torch", "openvino", "compile")
_FILES = ("encoder.xml", "encoder.bin")
_NOTE = "encoder.json"
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
_NEEDED = {"bf16": "BF16", "f16": "FP16"}  # the capability without which a format is only emulated

Outputs = Any  # what an encoder returns: tensors in tuples or lists, as its family's `encode` expects them


def check_engine(engine: str, placement: Placement) -> None:
    """Refuse an engine that is unknown, not installed, or not made for the device.

    Raises
    ------
    SettingsError
        If no engine has that name.
    DeviceError
        If OpenVINO is asked for and the model goes anywhere but to the CPU.
    MissingExtraError
        If OpenVINO is not installed.
    """
    if engine not in ENGINES:
        raise SettingsError(f"engine {engine!r} is unknown; choose one of {', '.join(ENGINES)}")
    if engine != "openvino":
        return
    if placement.device.type != "cpu":
        raise DeviceError(
            f"engine 'openvino' runs on the CPU, and this model goes to {placement.device}; "
            "pass device='cpu', or leave the engine at 'torch'"
        )
    if find_spec("openvino") is None:
        raise MissingExtraError(
            "engine 'openvino' needs OpenVINO, which is not installed: `pip install napari-segany[openvino]`, "
            "or leave the engine at 'torch'"
        )


def use_engine(engine: str, network: ImageModel, *, card: ModelCard, placement: Placement) -> None:
    """Let an engine run the image encoder of a network, whose weights are loaded, folded and not yet rounded.

    What stands in for the encoder is called as it was, and returns the same maps. `card` names the network's weights.
    """
    check_engine(engine, placement)
    encoder = network.image_encoder
    assert isinstance(encoder, nn.Module)
    if engine == "openvino":
        network.image_encoder = _openvino_encoder(
            encoder, card=card, config=network.config, placement=placement
        )
    elif engine == "compile":
        network.image_encoder = CompiledEncoder(encoder)


class CompiledEncoder(nn.Module):
    """An image encoder that PyTorch compiles at its first call; where it cannot, the encoder as it is."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.plain = encoder
        self._fast: Callable[[Tensor], Outputs] | None = None
        self._gave_up = False

    def forward(self, pixels: Tensor) -> Outputs:
        """Return what the encoder makes of (B, 3, H, W) pixels."""
        if self._gave_up:
            return self.plain(pixels)
        try:
            if self._fast is None:
                self._fast = torch.compile(self.plain.forward)
            return self._fast(pixels)
        except Exception as error:  # compilers fail in every way: C++ missing, a graph too odd, a full disk
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        answer = self.plain(pixels)  # if it was not the compiler (pixels, memory), this raises what it was
        self._gave_up, self._fast = True, None
        warnings.warn(
            f"PyTorch could not compile the image encoder ({reason}); it runs uncompiled, which is slower. "
            "Leave the engine at 'torch' to do so from the start.",
            RuntimeWarning,
            stacklevel=2,
        )
        return answer


class OpenVinoEncoder(nn.Module):
    """An image encoder that OpenVINO runs on the CPU; without parameters, so that `.to` changes nothing.

    Parameters
    ----------
    compiled
        OpenVINO's compiled model: one image in, all maps out.
    is_nested
        Whether all maps but the first go into a tuple of their own, as in the bundled models.
    """

    def __init__(
        self, compiled: Callable[[list[Any]], Any], *, is_nested: bool
    ) -> None:  # Any: untyped there
        super().__init__()
        self._compiled = compiled
        self._is_nested = is_nested
        self._lock = threading.Lock()  # a compiled model has one set of buffers

    def forward(self, pixels: Tensor) -> Outputs:
        """Return what the encoder makes of (B, 3, H, W) pixels on the CPU, in their number format."""
        images = pixels.detach().float().contiguous().split(1)
        with self._lock:
            answers = [self._maps(image) for image in images]
        maps = [torch.cat(each) if len(each) > 1 else each[0] for each in zip(*answers, strict=True)]
        maps = [each.to(pixels.dtype) for each in maps]
        return (maps[0], tuple(maps[1:])) if self._is_nested else tuple(maps)

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Return the maps of one (1, 3, H, W) image, float32."""
        return [torch.from_numpy(each) for each in self._compiled([image.numpy()]).values()]


class _Flat(nn.Module):
    """An encoder in the form that is traced: all maps in one tuple."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of (B, 3, H, W) pixels."""
        with (
            torch.enable_grad()
        ):  # the CPU's paths without gradients work in buffers and slabs, not in a graph
            return tuple(_flat(self.encoder(pixels)))


def _flat(outputs: Tensor | Sequence[Any]) -> list[Tensor]:  # Any: as deep as the family nests
    """Return all tensors of nested tuples and lists, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in _flat(part)]


def _openvino_encoder(
    encoder: nn.Module, *, card: ModelCard, config: ImageModelConfig, placement: Placement
) -> OpenVinoEncoder:
    """Return an encoder compiled by OpenVINO, from its kept form or a new one."""
    import openvino

    core = openvino.Core()
    folder = kept_folder(card, config=config)
    _make(folder.parent)
    with held(folder, waiting=lambda: _logger.debug("another process converts %s", card.name)):
        graph = _read(core, folder)
        if graph is None:
            _logger.info("converting the image encoder of %s for OpenVINO, once", card.name)
            graph = _convert(encoder, config=config)
            _keep(graph, folder)
    compiled = core.compile_model(graph, "CPU", _settings(core, placement))
    return OpenVinoEncoder(compiled, is_nested=isinstance(encoder, NanoEncoder))


def kept_folder(card: ModelCard, *, config: ImageModelConfig) -> Path:
    """Return where OpenVINO's form of a model's encoder is kept: for these weights, this frame, these versions."""
    made_from = [
        card.weights_sha256,
        config.image_size,
        config.resizing,
        metadata.version("openvino"),
        __version__,
    ]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    return weights_dir() / "openvino" / f"{card.name}-{key}"


def _settings(core: Any, placement: Placement) -> dict[str, Any]:  # Any: OpenVINO's properties are untyped
    """Return how OpenVINO computes: in the placement's number format, with as many threads as PyTorch."""
    hint = _HINTS[placement.encoder_dtype]
    if hint in _NEEDED and _NEEDED[hint] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        _logger.info("OpenVINO has no fast %s on this CPU and takes f32, which is more exact", hint)
        hint = "f32"
    return {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # two processes would pin themselves to the same cores
    }


def _convert(encoder: nn.Module, *, config: ImageModelConfig) -> Any:  # Any: openvino.Model, untyped
    """Return OpenVINO's graph of an encoder, in float32, of one image; of any size where the frame has no fixed one.

    OpenVINO's `convert_model` would do the same and report it over the network; its front end alone does not.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    side = config.image_size
    example = torch.zeros(1, 3, side, side)
    module = _Flat(encoder.to("cpu", torch.float32)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and warns of every shape that it fixes
        traced = torch.jit.trace(module, example, check_trace=False)
    decoder = TorchScriptPythonDecoder(traced)
    front = FrontEndManager().load_by_framework("pytorch")
    graph = front.convert(front.load(decoder))
    frame = [-1, -1] if config.resizing in ("fit", "short") else [side, side]
    graph.reshape([1, 3, *frame])
    return graph


def _make(folder: Path) -> None:
    """Make a folder, where that is allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _logger.debug("cannot make %s: %s", folder, error)


def _read(core: Any, folder: Path) -> Any | None:  # Any: openvino.Core and openvino.Model, untyped
    """Return a kept graph, or None; one that is damaged is removed."""
    if not folder.is_dir():
        return None
    try:
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        if note == _hashes(folder):
            return core.read_model(folder / _FILES[0])
        reason: object = "its hash is another"
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: OpenVINO's own
        reason = error
    _logger.warning("OpenVINO's form of an encoder in %s is damaged (%s); it is made again", folder, reason)
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _keep(graph: Any, folder: Path) -> None:  # Any: openvino.Model, untyped
    """Keep a graph for the next time: the whole folder is there, or nothing; without one, all works but slower."""
    import openvino

    part = folder.with_name(f"{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir()
        openvino.save_model(graph, part / _FILES[0], compress_to_fp16=False)
        write_durably(part / _NOTE, json.dumps(_hashes(part)).encode())
        part.replace(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: OpenVINO's own
        _logger.warning("cannot keep %s (%s): the encoder will be converted again next time", folder, error)
        shutil.rmtree(part, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of a kept graph's files by their names."""
    return {name: digest_of(folder / name, "xxh128") for name in _FILES}
