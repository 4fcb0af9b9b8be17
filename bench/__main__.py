"""`python -m bench`: measure, write bench/results.json, the README's table and the plot. `python -m bench profile SOURCE N`: one source's stages.

Invariant: results are written after every part, so a run that is ended early loses only what it was measuring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import load, results, stages
from bench.report import profile_text

PARTS = ("load", "stages")
SIZES = (10_000, 100_000, 1_000_000)
STAGES_ASSETS = 40_000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the pipeline on this machine.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="assets, and as many findings")
    parser.add_argument("--source", nargs="+", choices=load.SOURCES, default=load.SOURCES, metavar="NAME")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help=f"of {', '.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=results.FILE, metavar="FILE", help="results to merge into")
    return parser


def _profile(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench profile", description="Where the CPU time of a load goes.")
    parser.add_argument("source", choices=load.SOURCES)
    parser.add_argument("assets", type=int, nargs="?", default=STAGES_ASSETS, help="and as many findings")
    options = parser.parse_args(arguments)
    print(profile_text(stages.measure(options.source, options.assets)))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run a command; its exit code."""
    if arguments and arguments[0] == "profile":
        return _profile(arguments[1:])
    options = _parser().parse_args(arguments)
    for part in options.parts:
        for source in options.source:
            if part == "stages":
                results.add(options.out, {"stages": stages.measure(source, STAGES_ASSETS, _say)})
            else:
                for size in options.sizes:
                    results.add(options.out, {"end_to_end": [load.measure(source, size, _say)]})
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
