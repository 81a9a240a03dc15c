"""Where and how exactly a model runs: the one place that decides on devices and number formats."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from napari_segany.core.errors import DeviceError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "reproducible", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, and the number format of the image encoder on it; prompts and masks are always float32."""

    device: torch.device
    encoder_dtype: torch.dtype

    @property
    def title(self) -> str:
        """Name for people, such as "cpu, bfloat16"."""
        return f"{self.device}, {str(self.encoder_dtype).removeprefix('torch.')}"


def place(device: str = "auto", precision: str = "auto") -> Placement:
    """Choose where to run.

    "auto" takes CUDA, then Apple's GPU, then the CPU, and bfloat16 wherever the hardware multiplies it fast (float16 on
    older CUDA cards). "reproducible" is float32.

    Raises
    ------
    DeviceError
        If this machine lacks the device, or the names are unknown.
    """
    if precision not in PRECISIONS:
        raise DeviceError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    chosen = _device(device)
    if precision in ("reproducible", "float32"):
        return Placement(chosen, torch.float32)
    if precision == "auto":
        return Placement(chosen, _fast_dtype(chosen))
    return Placement(chosen, getattr(torch, precision))


def _device(name: str) -> torch.device:
    """Return the device of a name, "auto" meaning the fastest there is."""
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    kind = name.split(":", maxsplit=1)[0]
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d+)?", name):
        raise DeviceError(f"device {name!r} is unknown; choose one of {', '.join(DEVICES)}, or as in cuda:1")
    if (kind == "cuda" and not has_cuda) or (kind == "mps" and not has_mps):
        raise DeviceError(
            f"device {name!r} was asked for but PyTorch {torch.__version__} sees none; try device='auto'"
        )
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name!r} was asked for but PyTorch sees {torch.cuda.device_count()} of them, from cuda:0"
        )
    return device


def _fast_dtype(device: torch.device) -> torch.dtype:
    """Return the format that the device's matrix units are made for."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu" and cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def step_dtype(device: str) -> torch.dtype:
    """Return the format of the weights in a step of training: bfloat16 where that is fast, else float32.

    Float16 would need its gradients scaled.
    """
    fast = _fast_dtype(_device(device))
    return fast if fast == torch.bfloat16 else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 matrix instructions (AMX or AVX512-BF16)."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
