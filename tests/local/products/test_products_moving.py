"""Inventories that change between the pages of one walk: what a naive walk sees, and what is known to be true."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from local.products.simulator import Simulator
from local.products.synthetic import Inventory

INVENTORY = Inventory(700, 900, seed=9, big_output_share=0)
CASES = pytest.mark.parametrize(
    ("product", "kind", "path"),
    [
        ("device42", "assets", ""),
        ("cycognito", "assets_domain", "/v1/assets/domain"),
        ("cycognito", "assets_webapp", "/v1/assets/webapp"),
        ("cycognito", "findings_issues", "/v1/issues"),
    ],
    ids=["device42", "domains", "webapps", "issues"],
)


@pytest.fixture
def client(serve: Any) -> Any:
    """A client of a small synthetic inventory on its fourth day."""
    inventory = INVENTORY.on(4)
    return serve(Simulator(dict(inventory.streams()), inventory=inventory))


def walk(client: Any, path: str, size: int) -> list[str]:
    """The ids that a walk by pages gives."""
    records = client.cycognito(path, size) if path else client.device42(size)
    return [str(record["id"]) for record in records]


def moved(client: Any, product: str, kind: str) -> tuple[list[str], list[str]]:
    """What has come and gone, as the simulator tells it."""
    told = client.send("GET", "/_control/day", {}).json()["moved"].get(f"{product}/{kind}", {})
    return told.get("inserted", []), told.get("removed", [])


@CASES
def test_records_inserted_in_front_make_a_walk_repeat(client: Any, product: str, kind: str, path: str) -> None:
    before = INVENTORY.on(4).ids(product, kind)
    client.control("day", {"move_while_paging": True, "every": 2, "how": "insert"})
    seen = walk(client, path, 20)
    client.control("day", {"move_while_paging": False})
    inserted, removed = moved(client, product, kind)
    repeated = [i for i, n in Counter(seen).items() if n == 2]
    assert inserted
    assert removed == []
    assert not {*inserted} & {*before}
    assert set(seen) == set(before)
    assert len(seen) == len(before) + len(repeated)
    assert 0 <= len(inserted) - len(repeated) <= 1
    assert walk(client, path, 20) == [*inserted, *before]


@CASES
def test_records_removed_in_front_make_a_walk_skip(client: Any, product: str, kind: str, path: str) -> None:
    before = INVENTORY.on(4).ids(product, kind)
    client.control("day", {"move_while_paging": True, "every": 2, "how": "remove"})
    seen = walk(client, path, 20)
    client.control("day", {"move_while_paging": False})
    inserted, removed = moved(client, product, kind)
    skipped = [i for i in before if i not in set(seen)]
    assert inserted == []
    assert removed == before[: len(removed)]
    assert skipped
    assert len(seen) == len(set(seen))
    assert {*skipped} <= {*before[len(removed) :]}
    assert walk(client, path, 20) == before[len(removed) :]


@CASES
def test_the_truth_after_both_is_what_a_quiet_walk_finds(client: Any, product: str, kind: str, path: str) -> None:
    before = INVENTORY.on(4).ids(product, kind)
    client.control("day", {"move_while_paging": True, "every": 1, "most": 7})
    walk(client, path, 20)
    inserted, removed = moved(client, product, kind)
    assert (len(inserted), len(removed)) == (4, 3)
    after = [*inserted, *(i for i in before if i not in set(removed))]
    assert walk(client, path, 20) == after
    total = client.send("GET", "/_control/day", {}).json()["records"][f"{product}/{kind}"]
    assert total == len(after) == len(set(after))


def test_device42_counts_what_is_there_now(client: Any) -> None:
    client.control("day", {"move_while_paging": True, "every": 1, "how": "remove"})
    totals = [client.device42_page(10, 0).json()["total_count"] for _ in range(3)]
    first = INVENTORY.on(4).count("device42", "assets")
    assert totals == [first, first - 1, first - 2]


def test_removal_ends_with_the_last_record(serve: Any) -> None:
    inventory = Inventory(3, 0, seed=1)
    client = serve(Simulator(dict(inventory.streams()), inventory=inventory))
    client.control("day", {"move_while_paging": True, "every": 1, "how": "remove"})
    pages = [len(client.device42_page(10, 0).json()["Devices"]) for _ in range(6)]
    assert pages == [3, 2, 1, 0, 0, 0]


def test_another_day_forgets_what_had_moved(client: Any) -> None:
    client.control("day", {"move_while_paging": True, "every": 1})
    walk(client, "", 50)
    answer = client.control("day", {"day": 5})
    assert answer["moved"] == {}
    assert answer["move_while_paging"] is False
    assert walk(client, "", 50) == INVENTORY.on(5).ids("device42", "assets")
