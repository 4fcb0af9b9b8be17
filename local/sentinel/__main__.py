"""`python -m local.sentinel --store DIR`: serve the emulator on loopback until SIGTERM, SIGINT, or the end of the parent."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path

from aiohttp import web

import memory
from local.sentinel.answers import DEFAULT_DCR
from local.sentinel.app import IDLE_S, Emulator, Options
from local.sentinel.spool import FILE_BYTES
from local.sentinel.wire import BYTES_PER_MINUTE, REQUESTS_PER_MINUTE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local.sentinel", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="directory for the Parquet files")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--with-parent", action="store_true", help="stop when the parent process ends")
    parser.add_argument(
        "--dcr", default=DEFAULT_DCR, help="immutable id of the data collection rule; several, with commas"
    )
    parser.add_argument("--limit", choices=["raw", "wire"], default="raw", help="what the 1 MB limit is about")
    parser.add_argument("--denied-token", action="append", default=[], help="a token without access to the rule (403)")
    parser.add_argument("--requests-per-minute", type=int, default=REQUESTS_PER_MINUTE, help="0 for no limit")
    parser.add_argument("--bytes-per-minute", type=int, default=BYTES_PER_MINUTE, help="0 for no limit")
    parser.add_argument("--file-bytes", type=int, default=FILE_BYTES, help="of rows decoded together into one file")
    parser.add_argument(
        "--idle-s", type=float, default=IDLE_S, help="rows are decoded, unasked, after so long without a request"
    )
    parser.add_argument("--lean", action="store_true", help="with the transformations that drop long texts")
    parser.add_argument("--faults", type=json.loads, default={}, help="JSON, as POST /_control/faults takes it")
    return parser


async def _watch_parent(stop: asyncio.Event, parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel has no event for this on every platform
        await asyncio.sleep(1)
    stop.set()


async def _serve(arguments: argparse.Namespace) -> None:
    # Before it is told that this process listens: it may end at once.
    parent = os.getppid()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    emulator = Emulator(
        Options(
            store=arguments.store,
            dcrs=[rule.strip() for rule in arguments.dcr.split(",")],
            limit=arguments.limit,
            denied_tokens=arguments.denied_token or ["no-access"],
            requests_per_minute=arguments.requests_per_minute,
            bytes_per_minute=arguments.bytes_per_minute,
            file_bytes=arguments.file_bytes,
            idle_s=arguments.idle_s,
            faults=arguments.faults,
            lean=arguments.lean,
        )
    )
    runner = web.AppRunner(emulator.application(), auto_decompress=False, access_log=None, shutdown_timeout=2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", arguments.port)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"url": f"http://{host}:{port}", "dcr": arguments.dcr, "store": str(arguments.store)}), flush=True)
    watcher = asyncio.create_task(_watch_parent(stop, parent)) if arguments.with_parent else None
    await stop.wait()
    if watcher is not None:
        watcher.cancel()
    await runner.cleanup()


if __name__ == "__main__":
    # What it sets that has to be there before the process begins, the stack gives.
    memory.settle(os.environ)
    asyncio.run(_serve(_parser().parse_args()))
