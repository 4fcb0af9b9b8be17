"""`python -m bench`: measure, write bench/results.json, the README's table and the plot. `python -m bench profile SOURCE N`: one source's stages.

Invariant: results are written after every part, so a run that is ended early loses only what it was measuring.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import load, results, stages, upload
from bench.plot import svg
from bench.report import placed, profile_text

PARTS = ("load", "stages", "upload")
SIZES = (10_000, 100_000, 1_000_000)
STAGES_ASSETS = 100_000
ROOT = results.FILE.parent.parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the pipeline on this machine. `python -m bench profile SOURCE [N]` only shows where a load's CPU time goes, "
        "`python -m bench report` only writes README and plot anew.",
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="N", help="assets, and as many findings")
    parser.add_argument("--source", nargs="+", choices=load.SOURCES, default=load.SOURCES, metavar="NAME")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument("--rows", type=int, default=upload.ROWS, metavar="N", help="rows of the upload's comparison")
    parser.add_argument(
        "--without-relations",
        action="store_true",
        help="loads of assets and findings alone (the setting <SOURCE>_RELATIONS is false)",
    )
    parser.add_argument(
        "--dcrs", type=int, default=load.DCRS, metavar="N", help="rules that share a load, each with its own quota"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=results.FILE,
        metavar="FILE",
        help="results to merge into; not the default: README and plot stay",
    )
    return parser


def _profile(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench profile", description="Where the CPU time of a load goes.")
    parser.add_argument("source", choices=load.SOURCES)
    parser.add_argument("assets", type=int, nargs="?", default=STAGES_ASSETS, help="and as many findings")
    options = parser.parse_args(arguments)
    print(profile_text(stages.measure(options.source, options.assets)))
    return 0


def _measured(options: argparse.Namespace) -> Iterator[results.JsonDict]:
    """What was measured, piece by piece."""
    if "load" in options.parts:
        for source in options.source:
            for size in options.sizes:
                relations = not options.without_relations
                yield {"end_to_end": [load.measure(source, size, _say, relations=relations, dcrs=options.dcrs)]}
    if "stages" in options.parts:
        for source in options.source:
            yield {"stages": stages.measure(source, min(STAGES_ASSETS, max(options.sizes)), _say)}
    if "upload" in options.parts:
        yield {"upload": upload.measure(options.rows, say=_say)}


def _report() -> int:
    """Write the README's figures and the plot from the results; 0."""
    found = results.read(results.FILE)
    readme = ROOT / "README.md"
    readme.write_text(placed(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    if found["end_to_end"]:
        (ROOT / "docs" / "bench.svg").write_text(svg(found["end_to_end"]), encoding="utf-8")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run a command; its exit code."""
    if arguments and arguments[0] == "profile":
        return _profile(arguments[1:])
    if arguments and arguments[0] == "report":
        return _report()
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.without_relations and list(options.parts) != ["load"]:
        parser.error("--without-relations is about whole loads: add --parts load")
    for measured in _measured(options):
        results.add(options.out, measured)
    if options.out == results.FILE:
        _report()
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
