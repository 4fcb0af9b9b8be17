"""The command line: `python -m local run | query | hunt | rules | alerts | verify | watchlist | doctor | serve`. The same app as in Azure, on embedded parts.

Invariant: exit code 0 only for a complete run; nothing is left running when a command ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from local import cost, detections_commands, show
from local.azurite import is_installed
from local.durable.kill_at import KillAt
from local.examination import SettingsFileError
from local.load import run_load
from local.node_packages import NodeError
from local.outcome import Outcome
from local.read_back import ReadBackError
from local.stack import DCR, ROOT, Stack, StackError
from local.unfinished import Unfinished
from sources.registry import SOURCES

STATE = ROOT / ".caasm"
LAST = STATE / "last.json"

KILLS_OF_CHAOS = 20
"""Chaos kills the app at most this often in a command, so that even the unluckiest seed ends."""

RESTARTS = 3
"""How often an app that something else killed is started again on its journal."""

_LIFE: Final = {
    "day": "day of the synthetic inventory's life (default 0, the first)",
    "created": "share of the first day's records that is new on each day (default 0.01)",
    "changed": "share of the records that changes on each day (default 0.02)",
    "deleted": "share of the records that vanishes on each day (default 0.01)",
    "touched": "share of the records of which only the last-seen times move on each day (default 0.3)",
    "epoch": "date of day 0 (default 2025-10-20); with a later one, changes are later than loads that went before",
}


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(prog="python -m local", description="The CAASM to Sentinel pipeline on this machine.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="load a source, show progress and the ledger")
    run.add_argument(
        "--source",
        nargs="+",
        required=True,
        choices=[*SOURCES, "all"],
        metavar="NAME",
        help=f"{', '.join(SOURCES)}, or all",
    )
    run.add_argument("--mode", choices=["full", "delta"], default="full")
    run.add_argument(
        "--allow-deletes", action="store_true", help="delete also more than the configured share of a stream"
    )
    run.add_argument(
        "--fresh", action="store_true", help="begin a new run, also when the last one failed and could be taken up"
    )
    run.add_argument("--ask", action="store_true", help="end with answers that a SOC would ask for")
    _stack_options(run)
    run.add_argument(
        "--json", type=Path, metavar="FILE", help="write the outcome as JSON (a list, for several sources)"
    )
    run.add_argument(
        "--journal",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="go on with what was running when the same command was killed, and without what it had loaded "
        "(default FILE: journal.db in --keep's DIR)",
    )
    run.add_argument(
        "--kill-at",
        metavar="ACTIVITY:N[:end]",
        help="SIGKILL the app and this command when an activity (open_run, export, transform, upload, diff, close_run) begins for "
        "the N-th time, or with :end when it has done its work and nobody knows yet; to try what --journal and --keep are for",
    )
    run.add_argument(
        "--chaos",
        type=int,
        metavar="SEED",
        help="run activities again, twice at once, late, and kill the app; implies --journal",
    )
    cost.add_command(commands, _stack_options)
    serve = commands.add_parser("serve", help="keep everything up and print the URLs")
    _stack_options(serve)
    doctor = commands.add_parser("doctor", help="what is wrong with an installation, and what to do")
    doctor.add_argument(
        "--settings",
        metavar="FILE",
        help="look at what these settings name (a local.settings.json, or env for the environment) instead of emulators",
    )
    doctor.add_argument("--source", nargs="+", choices=list(SOURCES), default=[], metavar="NAME", help="only these")
    doctor.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    _stack_options(doctor)
    verify = commands.add_parser("verify", help="compare a run's ledger with what the workspace has of it")
    verify.add_argument(
        "run", metavar="RUN", nargs="?", help="the run's id, or a file with its manifest (default: last)"
    )
    verify.add_argument("--keep", type=Path, metavar="DIR", help="the load to look at (default: the last one)")
    verify.add_argument("--workspace", metavar="GUID", help="a workspace in Azure instead of the emulator, by its id")
    verify.add_argument("--endpoint", default="https://api.loganalytics.io", metavar="URL", help="of its query API")
    verify.add_argument("--wait", type=float, default=900, metavar="S", help="for rows to show (default 900 s)")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write what was counted as JSON")
    query = commands.add_parser("query", help="ask the last run's tables in KQL")
    query.add_argument("kql")
    query.add_argument("--keep", type=Path, metavar="DIR", help="the load to ask (default: the last one)")
    query.add_argument("--limit", type=int, default=50, help="rows to print")
    query.add_argument("--json", type=Path, metavar="FILE", help="write all rows as JSON")
    detections_commands.add_parsers(commands)
    watchlist = commands.add_parser("watchlist", help="the critical assets of the last run, as a Sentinel watchlist")
    watchlist.add_argument(
        "--keep", type=Path, metavar="DIR", help="the load to take them from (default: the last one)"
    )
    watchlist.add_argument("--out", type=Path, metavar="FILE", help="write the CSV there instead of printing it")
    return top


def _stack_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--recordings", type=Path, metavar="DIR", help="serve recorded pages from DIR/<product>/wire")
    command.add_argument(
        "--assets", type=int, default=2000, metavar="N", help="synthetic assets of each product (default 2000)"
    )
    command.add_argument(
        "--findings", type=int, default=2000, metavar="N", help="synthetic findings of each product (default 2000)"
    )
    command.add_argument("--seed", type=int, default=1, metavar="S", help="of the synthetic inventory (default 1)")
    for name, meaning in _LIFE.items():
        command.add_argument(f"--{name}", metavar="D" if name in {"day", "epoch"} else "SHARE", help=meaning)
    command.add_argument("--faults", metavar="JSON", help="what the simulators do wrong on purpose")
    command.add_argument("--source-url", metavar="URL", help="a product elsewhere instead of the simulators")
    command.add_argument("--dce", metavar="URL", help="an ingestion endpoint elsewhere instead of the emulator")
    command.add_argument("--dcr", default=DCR, help="immutable id of the DCR; several, with commas, share the load")
    command.add_argument("--keep", type=Path, metavar="DIR", help="keep blobs, ledger and the emulator's tables there")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    grammar = parser()
    options = grammar.parse_args(arguments)
    if options.command == "run":
        _check(options, grammar)
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=150)  # into a file or a CI log nothing needs to be cut to 80
    # SIGTERM ends a command as Ctrl-C does: through the blocks that stop what was started.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        commands = {
            "run": _run,
            "serve": _serve,
            "query": _query,
            "hunt": _ask_content,
            "rules": _ask_content,
            "alerts": _ask_content,
            "verify": _verify,
            "watchlist": _watchlist,
            "doctor": _doctor,
            "cost": _cost,
        }
        return commands[options.command](options, console)
    except (StackError, NodeError, SettingsFileError, ReadBackError) as error:
        console.print(f"[red]✗[/red] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _check(options: argparse.Namespace, grammar: argparse.ArgumentParser) -> None:
    """End with what is wrong with the options of a run."""
    if options.journal is not None and options.keep is None:
        grammar.error("--journal needs --keep DIR: what the journal goes on with is there")
    if options.kill_at is not None:
        if options.chaos is not None:
            grammar.error("--kill-at is one kill at a chosen point, --chaos kills by chance: use one of them")
        try:
            KillAt.parse(options.kill_at)
        except ValueError as error:
            grammar.error(str(error))


def _stack(options: argparse.Namespace, console: Console, unnamed: str = "last") -> Stack:
    """The stack that the options ask for; one that keeps nothing on request is in a directory of that name, begun anew, beside that of another command."""
    if not is_installed():
        console.print("Installing Azurite (blob storage), once; this can take some minutes …", highlight=False)
    simulator = None
    if options.source_url is None:
        synthetic = ["--assets", str(options.assets), "--findings", str(options.findings), "--seed", str(options.seed)]
        simulator = ["--recordings", str(options.recordings.resolve())] if options.recordings else synthetic
        # Only what was given, so that the simulators' defaults are stated once, and they say what is wrong with a value.
        for name in _LIFE:
            simulator += [f"--{name}", getattr(options, name)] if getattr(options, name) is not None else []
        simulator += ["--faults", options.faults] if options.faults else []
    stack = Stack((options.keep or STATE / unnamed).resolve(), simulator, options.source_url, options.dce, options.dcr)
    if options.keep is None:
        stack.begin_anew()
    if options.command not in {"doctor", "cost"}:
        STATE.mkdir(exist_ok=True)
        LAST.write_text(json.dumps({"directory": str(stack.directory)}))
    return stack


def _journalled(stack: Stack, options: argparse.Namespace) -> Stack:
    """The stack with the journal that the options ask for; the app is then started again when it is killed."""
    if options.journal is not None or options.chaos is not None:
        named = options.journal is not None and options.journal != Path()
        stack.journal = options.journal.resolve() if named else stack.directory / "journal.db"
        stack.chaos = options.chaos
        stack.most_restarts = KILLS_OF_CHAOS if options.chaos is not None else RESTARTS
    if options.kill_at is not None:
        stack.app_arguments = ["--kill-at", options.kill_at]
    return stack


def _run(options: argparse.Namespace, console: Console) -> int:
    names = list(SOURCES) if "all" in options.source else list(dict.fromkeys(options.source))
    asked = {name: True for name in ("allow_deletes", "fresh") if getattr(options, name)}
    with _journalled(_stack(options, console), options) as stack:
        served = {"simulator": stack.simulator, "url": stack.source_url}
        command = {"sources": names, "mode": options.mode, **asked, **served}
        unfinished = Unfinished(stack.directory / "command.json" if stack.journal else None, command)
        outcomes = [_load(stack, unfinished, name, options.mode, asked, console) for name in names]
        directory = stack.directory
        unfinished.close()
    if options.json:
        objects = [outcome.to_json() for outcome in outcomes]
        options.json.write_text(json.dumps(objects[0] if len(objects) == 1 else objects, indent=1))
    if options.ask and options.dce is None:
        _ask(directory, console)
    return 0 if all(outcome.status == "complete" for outcome in outcomes) else 1


def _load(
    stack: Stack, unfinished: Unfinished, source: str, mode: str, asked: dict[str, bool], console: Console
) -> Outcome:
    """Load a source and show what came of it; of one that ended before the command was killed, what came of it then."""
    outcome = unfinished.ended(source)
    if outcome is not None:
        console.print(f"{source} was loaded before the command was killed:", highlight=False)
        show.ledger(console, outcome)
        return outcome
    asked_at = unfinished.asked_at(source)
    unfinished.asking(source)
    with show.Progress(console) as progress:
        outcome = run_load(stack, source, mode, progress, options=asked, asked_at=asked_at)
    if outcome.manifest:
        kept = stack.directory / "ledger" / f"{outcome.run_id}.json"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(outcome.manifest, indent=1))
    unfinished.has_ended(outcome)
    show.ledger(console, outcome)
    if outcome.chaos is not None:
        console.print(_chaos_line(outcome.chaos), highlight=False)
    return outcome


def _chaos_line(chaos: dict[str, int]) -> str:
    return (
        f"  chaos {chaos['seed']}: {chaos['kills']} kills of the app, {chaos['repeats']} of {chaos['deliveries']} activities repeated "
        f"({chaos['reruns']} after success, {chaos['twins']} twice at once, {chaos['lost']} lost), {chaos['delays']} late"
    )


def _ask(directory: Path, console: Console) -> None:
    from local.questions import QUESTIONS
    from local.sentinel.query import Workspace
    from local.sentinel.spool import recover

    recover(directory / "sentinel")
    workspace = Workspace(directory / "sentinel")
    for question in QUESTIONS:
        answer = workspace.query(question.kql)
        show.result(console, question.words, [column.name for column in answer.columns], answer.rows)
    console.print(
        'Ask on: [bold]python -m local query "CAASM_Assets_CL | summarize count() by AssetType"[/bold]', highlight=False
    )


def _cost(options: argparse.Namespace, console: Console) -> int:
    if options.keep is None and LAST.exists():
        # The manifests of the last load are what an estimate is best based on.
        last = Path(json.loads(LAST.read_text())["directory"])
        options.keep = last if last.exists() else None
    with _stack(options, console, "cost") as stack:
        return cost.run(stack, options, console)


def _serve(options: argparse.Namespace, console: Console) -> int:
    with _stack(options, console) as stack:
        urls = stack.urls
        console.print("Everything is up; Ctrl-C stops it.\n", highlight=False)
        for name, url in urls.items():
            console.print(f"  {name:9} {url}", highlight=False)
        app = urls["app"]
        console.print(
            f'\n  curl -X POST {app}/api/loads -H \'Content-Type: application/json\' -d \'{{"source": "device42", "mode": "full"}}\''
            f"\n  curl {app}/api/loads\n  curl {app}/api/health\n  curl {app}/runtime/webhooks/durabletask/instances/load-device42",
            highlight=False,
            soft_wrap=True,
        )
        while True:
            stack.check()
            time.sleep(1)


def _doctor(options: argparse.Namespace, console: Console) -> int:
    from local.examination import examined, settings_of, show_report

    if options.settings is not None:
        report = examined(settings_of(options.settings), options.source)
    else:
        with _stack(options, console, "doctor") as stack:
            report = examined(stack.environment(), options.source)
    show_report(console, report)
    if options.json:
        options.json.write_text(json.dumps(report.to_json(), indent=1))
    return 1 if report.status == "error" else 0


def _verify(options: argparse.Namespace, console: Console) -> int:
    from local.read_back import manifest_of, until_right, workspace_of

    manifest = manifest_of(options.run, lambda: _kept(options) / "ledger")
    with workspace_of(options.workspace, options.endpoint, lambda: _kept(options) / "sentinel") as workspace:
        counted = until_right(manifest, workspace, options.wait)
    rows = [[*dataclasses.astuple(stream), stream.verdict] for stream in counted]
    titles = ["stream", "table", "accepted", "possibly repeated", "found", "verdict"]
    show.result(console, manifest["run_id"], titles, rows)
    if options.json:
        found = [{**dataclasses.asdict(stream), "verdict": stream.verdict} for stream in counted]
        options.json.write_text(json.dumps(found, indent=1))
    return 0 if all(stream.right for stream in counted) else 1


def _kept(options: argparse.Namespace) -> Path:
    """The folder of the load that a command asks. Raises StackError when there is none."""
    from local.sentinel.spool import recover

    directory = options.keep or (Path(json.loads(LAST.read_text())["directory"]) if LAST.exists() else None)
    if directory is None or not (directory / "sentinel").exists():
        raise StackError("there is no load to ask: run one first, or name it with --keep DIR")
    recover(Path(directory) / "sentinel")
    return Path(directory)


def _watchlist(options: argparse.Namespace, console: Console) -> int:
    from local.sentinel.query import Workspace
    from local.watchlist import ALIAS, watchlist_csv

    text = watchlist_csv(Workspace(_kept(options) / "sentinel"))
    if options.out is None:
        sys.stdout.write(text)
        return 0
    options.out.write_text(text, encoding="utf-8")
    console.print(f"{options.out}: {max(len(text.splitlines()) - 1, 0)} items of {ALIAS}", highlight=False)
    return 0


def _ask_content(options: argparse.Namespace, console: Console) -> int:
    return detections_commands.COMMANDS[options.command](_kept(options) / "sentinel", options, console)


def _query(options: argparse.Namespace, console: Console) -> int:
    from local.sentinel.query import QueryError, Workspace

    directory = _kept(options)
    try:
        answer = Workspace(directory / "sentinel").query(options.kql)
    except QueryError as error:
        console.print(f"[red]✗[/red] {error.code}: {error}", highlight=False, soft_wrap=True, markup=True)
        return 1
    columns = [column.name for column in answer.columns]
    rows: list[Sequence[Any]] = list(answer.rows)
    show.result(console, "", columns, rows, options.limit)
    if options.json:
        options.json.write_text(
            json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=1, default=str)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
