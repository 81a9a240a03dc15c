"""Memory that is freed between prompts stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource
import torch
from napari_segany.predict.heap import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def touched():
    blocks = [torch.ones(1 << 20) for _ in range(6)]  # 4 MiB each, as one prompt's

{call}
for _ in range(3):
    touched()
before = faults()
for _ in range(10):
    touched()
print(faults() - before)
"""


def _faults_of_ten_rounds(call: str) -> int:
    """Return how many pages a new process has to take anew for ten times the same 24 MiB."""
    command = [sys.executable, "-c", ROUNDS.format(call=call)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a rule of the GNU C library")
def test_memory_of_one_round_serves_the_next() -> None:
    left_alone, kept = (_faults_of_ten_rounds(call) for call in ("", "keep_freed_memory()"))
    assert kept < 1000 < left_alone  # of 61,440 pages
