"""python -m local.durable APP_DIR: run a function app on loopback.

Prints one JSON line {"url": …, "pid": …} on stdout when it is ready and logs to stderr. SIGTERM, SIGINT or, with --with-parent, the
parent's death end it within about two seconds: it stops accepting work, gives running activities and HTTP functions one second, and leaves
without them. That loses nothing that Azure would keep: an activity without a recorded result runs again on the journal, and a
thread that is inside a request cannot be stopped any other way.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sqlite3
import sys
import threading
from functools import partial
from pathlib import Path

from local.durable.chaos import LOG_SUFFIX, Chaos, Rates
from local.durable.functions import AppNotIndexedError
from local.durable.host import Host
from local.durable.kill_at import KillAt, end_process
from local.durable.server import listen, serve
from local.durable.worker import Deliver, deliver_once

GRACE_S = 1.0
log = logging.getLogger("local.durable")


class _WithFields(logging.Formatter):
    """Writes a record's fields (`extra`) behind its message, as Application Insights shows them beside it."""

    _usual = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in self._usual}
        return super().format(record) + "".join(f" {name}={value!r}" for name, value in fields.items())


def parsed_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m local.durable", description="Run a Durable Functions app locally.")
    parser.add_argument("app_dir", type=Path, help="folder of function_app.py and host.json")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--journal", type=Path, help="SQLite file that keeps instances across restarts")
    parser.add_argument(
        "--chaos", type=int, metavar="SEED", help="deliver activities at least once: again, twice, late"
    )
    parser.add_argument("--chaos-kills", type=int, default=1, metavar="N", help="0: chaos never kills the process")
    parser.add_argument("--chaos-rates", type=json.loads, default={}, metavar="JSON", help="fields of chaos.Rates")
    parser.add_argument(
        "--kill-at",
        type=KillAt.parse,
        metavar="NAME:N[:end]",
        help="SIGKILL this process, and with --with-parent its parent before it, when activity NAME is delivered for the N-th time: "
        "before it begins, or with :end after it has done its work and before its completion is recorded",
    )
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process does")
    options = parser.parse_args()
    if options.kill_at is not None and options.chaos is not None:
        parser.error("--kill-at is one kill at a chosen point, --chaos kills by chance: use one of them")
    return options


async def run(host: Host, listening: socket.socket, parent: int | None) -> None:
    """Serve `host` until a signal, or until `parent` is no longer this process's parent."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    runner = await serve(host, listening)
    for function in host.app.functions.values():
        log.info("%s %s", function.kind, function.name)
    try:
        print(json.dumps({"url": f"http://127.0.0.1:{host.port}", "pid": os.getpid()}), flush=True)
    except BrokenPipeError:  # whoever started this has gone meanwhile
        stopped.set()
    while not stopped.is_set() and parent in {None, os.getppid()}:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), None if parent is None else 1)
    log.info("stopping")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(runner.cleanup(), GRACE_S / 2)
    closing = threading.Thread(target=host.close, daemon=True)
    closing.start()
    await asyncio.to_thread(closing.join, GRACE_S)


def deliver_of(options: argparse.Namespace, journal: Path | None) -> Deliver:
    """How activities are delivered. Without a journal nothing would be left after a kill, so chaos does not kill then."""
    if options.kill_at is not None:
        options.kill_at.kill = partial(end_process, with_parent=options.with_parent)
        chosen: Deliver = options.kill_at.deliver
        return chosen
    if options.chaos is None:
        return deliver_once
    log = journal.with_suffix(LOG_SUFFIX) if journal is not None else None
    kills = options.chaos_kills if journal is not None else 0
    return Chaos(options.chaos, Rates(**options.chaos_rates), kills=kills, log=log).deliver


def main() -> int:
    """Run until told to stop; 0, or 2 when the app cannot be indexed or the port or journal cannot be opened."""
    options = parsed_arguments()
    parent = os.getppid() if options.with_parent else None
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithFields("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("durabletask").setLevel(logging.WARNING)  # it logs every call
    journal = options.journal.resolve() if options.journal else None
    try:
        app_dir = options.app_dir.resolve(strict=True)
        os.chdir(app_dir)  # before the journal resumes what runs in it
        listening = listen(options.port)
        deliver = deliver_of(options, journal)
        host = Host(app_dir, journal=journal, port=listening.getsockname()[1], deliver=deliver)
    except AppNotIndexedError as error:
        log.error("%s", error, exc_info=error.__cause__)  # noqa: TRY400  # the app's own traceback, not this one
        return 2
    except (OSError, sqlite3.Error) as error:
        log.error("cannot start: %s", error)  # noqa: TRY400  # the message says it all
        return 2
    # asyncio.run would wait for the threads of its executor, and an HTTP function's may be in a request for minutes, as an activity's may.
    asyncio.new_event_loop().run_until_complete(run(host, listening, parent))
    return 0


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(code)  # the interpreter would wait for activity threads, for as long as they take
