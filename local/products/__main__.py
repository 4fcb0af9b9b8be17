"""`python -m local.products`: the product simulators as a process.

Prints one JSON line when it listens, and ends on SIGTERM, SIGINT or, with --with-parent, when its parent has gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from datetime import date
from pathlib import Path

from aiohttp import web

import memory
from local import products
from local.products.faults import parse
from local.products.life import Rates
from local.products.recorded import read_folder
from local.products.server import make_app
from local.products.simulator import Keys, Simulator, Stream
from local.products.state import PageLog, StateFile
from local.products.synthetic import EPOCH, Inventory


def _arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.products", description=__doc__)
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="serve <product>/wire/<kind>-NNNN.json of DIR")
    parser.add_argument("--assets", type=int, default=0, help="synthetic assets of each product")
    parser.add_argument("--findings", type=int, default=0, help="synthetic findings of CyCognito and of Tenable")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--orphan-share", type=float, default=0.3, help="CyCognito issues on kinds not exported")
    parser.add_argument("--big-output-share", type=float, default=0.001, help="Tenable findings of half a megabyte")
    parser.add_argument("--fixed-share", type=float, default=0.0, help="Tenable findings in the state FIXED")
    parser.add_argument("--day", type=int, default=0, help="of the synthetic inventory's life; 0 is the first")
    for name, whose in (
        ("created", "first day's records"),
        *((n, "records") for n in ("changed", "deleted", "touched")),
    ):
        default = getattr(Rates, name)
        parser.add_argument(f"--{name}", type=float, default=default, help=f"share of the {whose} on each day")
    parser.add_argument("--epoch", type=date.fromisoformat, default=EPOCH, help="the date of day 0")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--with-parent", action="store_true", help="end when the parent process does")
    parser.add_argument("--faults", default="{}", metavar="JSON")
    parser.add_argument("--page-cap", type=int, help="no page has more records than this")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="keep export jobs there, for the process after this one"
    )
    parser.add_argument("--page-log", type=Path, metavar="FILE", help="append a JSON line for each page that is served")
    parser.add_argument("--cycognito-key", default=products.CYCOGNITO_KEY)
    parser.add_argument("--device42-user", default=products.DEVICE42_USER)
    parser.add_argument("--device42-password", default=products.DEVICE42_PASSWORD)
    parser.add_argument("--tenable-access-key", default=products.TENABLE_ACCESS_KEY)
    parser.add_argument("--tenable-secret-key", default=products.TENABLE_SECRET_KEY)
    arguments = parser.parse_args(argv)
    if arguments.recordings is not None and arguments.day != 0:
        parser.error("--day is of the synthetic inventory; recorded pages have no days")
    if (arguments.recordings is None) == (arguments.assets == arguments.findings == 0):
        parser.error("give either --recordings DIR, or --assets N and --findings N")
    try:
        _inventory(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def _inventory(arguments: argparse.Namespace) -> Inventory:
    return Inventory(
        arguments.assets,
        arguments.findings,
        arguments.seed,
        orphan_share=arguments.orphan_share,
        big_output_share=arguments.big_output_share,
        fixed_share=arguments.fixed_share,
        day=arguments.day,
        created=arguments.created,
        changed=arguments.changed,
        deleted=arguments.deleted,
        touched=arguments.touched,
        epoch=arguments.epoch,
    )


def _simulator(arguments: argparse.Namespace) -> Simulator:
    streams: dict[tuple[str, str], Stream] = {}
    inventory = None
    if arguments.recordings is not None:
        streams |= read_folder(arguments.recordings)
    else:
        inventory = _inventory(arguments)
        streams |= inventory.streams()
    keys = Keys(
        arguments.cycognito_key,
        arguments.device42_user,
        arguments.device42_password,
        arguments.tenable_access_key,
        arguments.tenable_secret_key,
    )
    served = str(arguments.recordings.resolve()) if inventory is None else repr(inventory.on(0))
    state = StateFile(arguments.state, served) if arguments.state is not None else None
    page_log = PageLog(arguments.page_log) if arguments.page_log is not None else None
    return Simulator(streams, keys, parse(arguments.faults), arguments.page_cap, inventory, state, page_log)


async def _until_told(parent: int | None) -> None:
    """Return on a signal, or when the parent, by its process id, has ended."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    while not told.is_set():
        try:
            await asyncio.wait_for(told.wait(), None if parent is None else 1.0)
        except TimeoutError:
            if os.getppid() != parent:
                return


async def _serve(arguments: argparse.Namespace) -> None:
    # Before it is told that this process listens: it may end at once.
    parent = os.getppid() if arguments.with_parent else None
    simulator = _simulator(arguments)
    runner = web.AppRunner(make_app(simulator), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, arguments.host, arguments.port, shutdown_timeout=1.0)
        await site.start()
        host, port = runner.addresses[0][:2]
        counts = {f"{product}/{kind}": stream.count for (product, kind), stream in simulator.streams.items()}
        print(json.dumps({"url": f"http://{host}:{port}", "day": simulator.day, "records": counts}), flush=True)
        await _until_told(parent)
    finally:
        await runner.cleanup()
        if simulator.page_log is not None:
            simulator.page_log.close()


if __name__ == "__main__":
    # What it sets that has to be there before the process begins, the stack gives.
    memory.settle(os.environ)
    asyncio.run(_serve(_arguments()))
