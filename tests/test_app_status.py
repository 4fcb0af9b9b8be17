"""Which run an instance is of, from the moment that it is started; what an activity answers for an error."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

import contracts
import function_app

INPUT = {"request": {"run_id": "tenable-2"}}


class Client:
    """A durable client with one instance; like Azure's it gives the input only to who asks for it."""

    def __init__(self, custom_status: Any, given: Any, runtime_status: str = "Pending") -> None:
        self.told = (custom_status, given, runtime_status)

    async def get_status(self, instance_id: str, show_input: bool = False) -> Any:
        assert instance_id == "load-tenable"
        status, given, runtime = self.told
        return SimpleNamespace(custom_status=status, input_=given if show_input else None, runtime_status=runtime)


@pytest.mark.parametrize(
    "client",
    [
        Client(None, INPUT),
        Client(None, json.dumps(INPUT)),
        Client("", INPUT),
        Client({"run_id": "tenable-2", "phase": "opening"}, None, "Running"),
    ],
    ids=["just started", "just started, input as text", "no status", "running"],
)
def test_a_load_is_known_from_its_start(client: Client) -> None:
    """A caller who asks at once is neither told that there is no such run, nor the manifest of the run that it takes up."""
    found = asyncio.run(function_app._running(client, "tenable"))
    assert function_app._run_of(found) == "tenable-2"


def test_an_instance_that_has_ended_is_no_running_load() -> None:
    """Its manifest answers for it."""
    assert asyncio.run(function_app._running(Client({"run_id": "tenable-2"}, None, "Completed"), "tenable")) is None


@pytest.mark.parametrize("progressed", [False, True])
def test_a_step_that_got_on_says_so_when_it_wants_to_be_called_again(*, progressed: bool) -> None:
    """What the orchestrator needs to tell a slow sink from one that is out."""

    def work() -> contracts.JsonDict:
        error = contracts.TryAgain("the rest follows", 3.0)
        error.progressed = progressed
        raise error

    answer = function_app._answer("upload", work)
    assert answer == contracts.again("the rest follows", 3.0, progressed=progressed)
