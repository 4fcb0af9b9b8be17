"""`python -m local cost`: what a load would come to, asked of the app as in Azure, shown as a table.

Invariant: the figures are the app's (`GET /api/loads/estimate`); nothing is loaded.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from rich.console import Console
from rich.table import Table
from rich.text import Text

from local.stack import Stack
from sources.registry import SOURCES

JsonDict = dict[str, Any]

TIMEOUT_S = 300.0
"""A sample of a product with export jobs waits for each stream's job."""


def add_command(commands: Any, stack_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command to the command line's."""
    command = commands.add_parser("cost", help="rows, GB, requests, duration and money of a load, before it is started")
    command.add_argument("--source", required=True, choices=list(SOURCES), metavar="NAME", help=", ".join(SOURCES))
    command.add_argument("--mode", choices=["full", "delta"], default="full")
    command.add_argument(
        "--sample", action="store_true", help="sample the product's pages even if there are runs to go by"
    )
    command.add_argument(
        "--records", type=int, default=0, metavar="N", help="of streams whose product does not say how many"
    )
    command.add_argument("--price", type=float, metavar="AMOUNT", help="per GB (default: INGESTION_PRICE_PER_GB)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the estimate as JSON")
    stack_options(command)


def run(stack: Stack, options: argparse.Namespace, console: Console) -> int:
    """Ask the stack's app and show its answer; 0 when there is one."""
    asked = {
        "source": options.source,
        "mode": options.mode,
        "sample": str(options.sample).lower(),
        "records": str(options.records),
    }
    url = f"{stack.urls['app']}/api/loads/estimate?{urlencode(asked)}"
    answer = urllib3.request("GET", url, timeout=TIMEOUT_S, retries=False)
    found = answer.json()
    if answer.status != 200:
        console.print(Text.assemble(("✗ ", "red"), f"{found['error']}: {found['remedy']}"), soft_wrap=True)
        return 1
    if options.price is not None:
        found["money"] = {"amount": round(found["gb"] * options.price, 4), "price_per_gb": options.price}
    show(console, found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


def show(console: Console, found: JsonDict) -> None:
    """The estimate as a table, a column a stream, and what it is based on."""
    console.print(
        Text.assemble(f"{found['source']} · {found['mode']} · ", (f"based on {found['based_on']}", "bold")),
        soft_wrap=True,
    )
    table = Table()
    table.add_column("")
    for name in found["streams"]:
        table.add_column(name, justify="right")
    for title, figure in (
        ("records", "records"),
        ("rows", "rows"),
        ("MB of JSON", "json_bytes"),
        ("MB compressed", "wire_bytes"),
    ):
        numbers = [stream[figure] for stream in found["streams"].values()]
        table.add_row(title, *(_figure(number, mega=figure.endswith("bytes")) for number in numbers))
    console.print(table)
    requests, money = found["requests"], found["money"]
    console.print(
        f"  {found['rows']:,} rows · {_volume(found['gb'])} ingested · requests: {requests['raw']:,} ({requests['wire']:,} in wire mode)\n"
        f"  {_spoken(found['duration_s'])} (at the quota: {_spoken(found['quota_s'])})"
        + (
            f" · {_amount(money['amount'])} at {money['price_per_gb']:g} a GB"
            if money
            else " · --price AMOUNT per GB tells the money"
        ),
        highlight=False,
        soft_wrap=True,
    )
    for note in found["notes"]:
        console.print(Text.assemble(("· ", "cyan"), note), soft_wrap=True)


def _volume(gb: float) -> str:
    return f"{gb:,.2f} GB" if gb >= 0.1 else f"{gb * 1000:,.1f} MB"


def _spoken(seconds: float | None) -> str:
    if seconds is None:
        return "duration not known"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _amount(money: float) -> str:
    return f"{money:,.2f}" if money >= 1 or not money else f"{money:.2g}"


def _figure(number: int | None, *, mega: bool) -> str:
    if number is None:
        return "?"
    if not mega:
        return f"{number:,}"
    return "< 0.1" if 0 < number < 5e4 else f"{number / 1e6:,.1f}"
