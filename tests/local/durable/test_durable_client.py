"""Every method of the SDK's DurableOrchestrationClient that the project relies on, against the local Durable HTTP API."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import azure.functions as func
import pytest
from azure.durable_functions import DurableOrchestrationClient, EntityId, OrchestrationRuntimeStatus

from local.durable.server import serve

Status = OrchestrationRuntimeStatus
DONE = (Status.Completed, Status.Failed, Status.Terminated)


@pytest.fixture
def with_client(open_host):
    """Runs a coroutine function with a client of a served demo host."""

    def run(body: Callable[[DurableOrchestrationClient], Awaitable[None]]) -> None:
        async def served():
            host = open_host("demo")
            runner = await serve(host)
            try:
                await body(DurableOrchestrationClient(host.client_binding()))
            finally:
                await runner.cleanup()

        asyncio.run(served())

    return run


async def status_of(client, instance_id, *wanted):
    """The status once it is one of `wanted`, or finished."""
    async with asyncio.timeout(20):
        while (status := await client.get_status(instance_id)).runtime_status not in (wanted or DONE):  # noqa: ASYNC110  # over HTTP there is nothing to wait on
            await asyncio.sleep(0.01)
    return status


def test_start_new_and_get_status(with_client):
    """With an id and without; a status of nothing is falsy; an unknown name raises the extension's message."""

    async def body(client):
        made = await client.start_new("no_yield", None, {"a": 1})
        assert (await status_of(client, made)).output["input"] == {"a": 1}
        assert await client.start_new("fan", "mine-1", {"n": 4}) == "mine-1"
        assert (await status_of(client, "mine-1")).output == 14
        assert not await client.get_status("nope")
        with pytest.raises(Exception, match="doesn't exist"):
            await client.start_new("nonesuch")

    with_client(body)


def test_get_status_with_history_puts_it_in_history_events(with_client):
    """The SDK looks for `history`; the extension sends `historyEvents`."""

    async def body(client):
        await client.start_new("fan", "mine-1", {"n": 4})
        await status_of(client, "mine-1")
        status = await client.get_status("mine-1", show_history=True, show_history_output=True, show_input=True)
        assert status.history is None
        assert len(status.historyEvents) == 6

    with_client(body)


def test_get_status_all_and_by(with_client):
    """By status, id prefix and time."""

    async def body(client):
        before = datetime.now(UTC) - timedelta(minutes=1)
        for instance_id in ("mine-1", "other"):
            await client.start_new("fan", instance_id, {"n": 1})
            await status_of(client, instance_id)
        assert {status.instance_id for status in await client.get_status_all()} == {"mine-1", "other"}
        found = await client.get_status_by(runtime_status=[Status.Completed], instance_id_prefix="mine")
        assert [status.instance_id for status in found] == ["mine-1"]
        assert len(await client.get_status_by(created_time_from=before, created_time_to=datetime.now(UTC))) == 2
        assert await client.get_status_by(created_time_to=before) == []

    with_client(body)


def test_raise_event_delivers_json_text_and_refuses_a_finished_instance(with_client):
    """The SDK encodes twice (its issue 295): the orchestrator gets a string, not the object."""

    async def body(client):
        await client.start_new("approval", "a")
        await status_of(client, "a", Status.Running)
        await client.raise_event("a", "go", {"ok": True})
        await client.raise_event("a", "go", "text")
        assert (await status_of(client, "a")).output == ['{"ok": true}', '"text"']
        with pytest.raises(Exception, match="is gone"):
            await client.raise_event("a", "go", 1)

    with_client(body)


def test_an_id_is_refused_while_it_runs_and_free_when_it_has_finished(with_client):
    """What makes one run at a time per source."""

    async def body(client):
        await client.start_new("approval", "one")
        with pytest.raises(Exception, match="already"):
            await client.start_new("approval", "one")
        await client.terminate("one", "make way & go")
        assert (await status_of(client, "one")).output == "make way & go"
        await client.start_new("fan", "one", {"n": 2})
        status = await status_of(client, "one")
        assert (status.name, status.output) == ("fan", 1)

    with_client(body)


def test_suspend_resume_and_terminate(with_client):
    """Each shows in the status; a terminated instance cannot be resumed."""

    async def body(client):
        await client.start_new("approval", "s")
        await client.suspend("s", "why")
        await status_of(client, "s", Status.Suspended)
        await client.resume("s", "on")
        await status_of(client, "s", Status.Running)
        await client.terminate("s", "bye")
        assert (await status_of(client, "s")).runtime_status is Status.Terminated

    with_client(body)


def test_restart_and_rewind(with_client):
    """restart gives all the URLs; rewind is only for Azure, and says so."""

    async def body(client):
        await client.start_new("fan", "r", {"n": 2})
        await status_of(client, "r")
        again = await client.restart("r")
        assert (await status_of(client, again["id"])).output == 1
        await client.start_new("failing", "f")
        await status_of(client, "f")
        with pytest.raises(Exception, match="not supported by the local durable host"):
            await client.rewind("f", "again")

    with_client(body)


def test_entities_through_the_client(with_client):
    """signal_entity and read_entity_state."""

    async def body(client):
        counter = EntityId("counter", "z")
        assert not (await client.read_entity_state(counter)).entity_exists
        await client.signal_entity(counter, "add", 5)
        async with asyncio.timeout(20):
            while not (state := await client.read_entity_state(counter)).entity_exists:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
        assert state.entity_state == 5

    with_client(body)


def test_responses_that_a_starter_gives(with_client):
    """create_check_status_response uses the caller's origin; waiting gives the output."""

    async def body(client):
        request = func.HttpRequest("POST", "https://example.org/api/x", body=b"")
        response = client.create_check_status_response(request, "mine-1")
        links = json.loads(response.get_body())
        base = "https://example.org/runtime/webhooks/durabletask/instances/mine-1?"
        assert response.status_code == 202
        assert links["statusQueryGetUri"].startswith(base)
        assert response.headers["Location"] == links["statusQueryGetUri"]
        assert set(client.create_http_management_payload("q")) == set(links)
        made = await client.start_new("fan", None, {"n": 3})
        waited = await client.wait_for_completion_or_create_check_status_response(request, made, 9000, 20)
        assert waited.get_body() == b"5"

    with_client(body)


def test_purging_history(with_client):
    """One by id, which then counts 0; many by time and status."""

    async def body(client):
        before = datetime.now(UTC) - timedelta(minutes=1)
        for instance_id, name in (("p", "fan"), ("f", "failing")):
            await client.start_new(name, instance_id, {"n": 1})
            await status_of(client, instance_id)
        assert (await client.purge_instance_history("p")).instances_deleted == 1
        assert (await client.purge_instance_history("p")).instances_deleted == 0
        until = datetime.now(UTC) + timedelta(minutes=1)
        assert (await client.purge_instance_history_by(before, until, [Status.Failed])).instances_deleted == 1
        assert not await client.get_status("f")

    with_client(body)
