"""`python -m tests.golden [FOLDER ...]`: run golden cases and print how every output compares.

Exit code 0: all pass. 1: an output differs by more than it may. 2: a folder cannot be run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from .case import CASES, UnsupportedCaseError, compare, read_case


def main(arguments: list[str] | None = None) -> int:
    """Run the cases named on the command line, or the copied ones, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="default: the cases in the tests"
    )
    folders: list[Path] = parser.parse_args(arguments).folders or sorted(CASES.iterdir())
    torch.set_num_threads(1)
    return max(_run(folder) for folder in folders)


def _run(folder: Path) -> int:
    """Print one case's report and return its exit code."""
    try:
        comparisons = list(compare(read_case(folder)))
    except UnsupportedCaseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"\n{folder.name}\n{'output':<36} {'worst':>10} {'allowed':>10}   (relative to the output's scale)")
    for comparison in comparisons:
        print(comparison)
    failures = sum(not comparison.passes for comparison in comparisons)
    print(f"{len(comparisons) - failures} of {len(comparisons)} outputs pass")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
