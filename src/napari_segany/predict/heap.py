"""Memory that one click frees stays at hand for the next.

The GNU C library gives freed memory back to the system as soon as there is more of it than twice the largest block that
was ever mapped on its own and freed; a prompt then takes its few megabytes anew, page by page, which lasts longer than
much of the arithmetic. What counts as much grows with the blocks that a process frees (mallopt(3), "M_MMAP_THRESHOLD").
"""

from __future__ import annotations

import torch

_LARGEST_COUNTED = (32 << 20) - (64 << 10)
"""Bytes: the library learns from blocks of up to 32 MiB (`DEFAULT_MMAP_THRESHOLD_MAX`), its notes included."""


def keep_freed_memory() -> None:
    """Let this process keep up to 64 MiB that it freed, as any does that once freed a block of 32 MiB.

    The block is never touched and costs no memory. Where the C library knows no such rule, nothing changes.
    """
    torch.empty(_LARGEST_COUNTED, dtype=torch.uint8)
