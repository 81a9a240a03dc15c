"""What happens when memory runs out: smaller batches first, then the CPU, and a warning that says so."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch

from napari_segany.core.errors import OutOfMemoryError

from .loading import Model
from .precision import place

SMALLEST_BATCH = 1
_CPU_MESSAGES = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether PyTorch failed for lack of memory, on whichever device."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _CPU_MESSAGES)


def on_cpu(model: Model, *, what: str) -> Model:
    """Return the model on the CPU, for what did not fit on its device, and warn."""
    warnings.warn(
        f"{model.card.name} ran out of memory on {model.placement.device} with {what}; it goes on with the CPU, "
        "which is slower. Close other programs that use the device, or choose a smaller model.",
        RuntimeWarning,
        stacklevel=2,
    )
    placement = place("cpu", "float32" if model.placement.encoder_dtype == torch.float32 else "auto")
    network = model.network.to(placement.device)
    for part in network.encoder_parts():
        part.to(placement.encoder_dtype)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return replace(model, network=network, placement=placement)


def refusal(name: str, what: str) -> OutOfMemoryError:
    """Return the error for what does not even fit into the CPU's memory."""
    return OutOfMemoryError(
        f"{name} needs more memory than this machine has for {what}; close other programs or use a smaller model"
    )
