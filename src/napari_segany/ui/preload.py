"""Loads torch's largest library without stopping the window."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import sys
from pathlib import Path

_logger = logging.getLogger(__name__)
_LIBRARIES = {"linux": "libtorch_cpu.so", "darwin": "libtorch_cpu.dylib"}
_RTLD_NOW = 2  # on Linux and macOS


def preload_torch() -> bool:
    """Load the library that `import torch` spends most of its time on, and say whether that was possible.

    `import` keeps Python's lock while the system loads a library, which stops every window for as long. A foreign
    call does not keep it, so the same work done here first, on a worker's thread, leaves the window alive.
    """
    name = _LIBRARIES.get(sys.platform)
    if name is None or "torch" in sys.modules:
        return False
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return False
    library = Path(spec.submodule_search_locations[0]) / "lib" / name
    if not library.is_file():
        return False
    load = ctypes.CDLL(None).dlopen
    load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    is_loaded = load(str(library).encode(), _RTLD_NOW) is not None
    _logger.debug("loaded %s ahead of torch: %s", library, is_loaded)
    return is_loaded
