"""A function app through its own HTTP starters and the Durable HTTP API, as a process of its own."""

import pytest


@pytest.mark.parametrize(
    ("name", "body", "output"),
    [
        pytest.param("fan", {"n": 5}, 30, id="fan-out and fan-in"),
        pytest.param("retrying", {"key": "r1", "succeed_on": 3}, "ok after 3", id="retry, then success"),
        pytest.param("parent", None, [30, "ok after 5"], id="sub-orchestration, and one with retry"),
        pytest.param("counting", {"i": 0, "to": 20}, {"finished": 20}, id="continue-as-new 20 times"),
        pytest.param("stale_timer", {"i": 0}, "worked", id="a timer of an old execution is not delivered"),
        pytest.param("paced_batched", {"n": 40, "ms": 1, "batch": 10}, 40, id="batches as sub-orchestrations"),
    ],
)
def test_an_orchestration_completes_with(demo, name, body, output):
    """Each durable pattern gives its result."""
    status = demo.run(name, body)
    assert (status["runtimeStatus"], status["output"]) == ("Completed", output)


@pytest.mark.parametrize("body", [{"a": 1}, [1, 2], "text"], ids=["object", "list", "text"])
def test_the_input_arrives_as_it_was_sent(demo, body):
    """An orchestrator that yields nothing sees its input and its own id."""
    links = demo.start("no_yield", body)
    output = demo.wait(links)["output"]
    assert output["input"] == body
    assert output["id"] == links["id"]


def test_forty_parallel_retries_each_end_on_their_own_attempt(demo):
    """Results keep their order and the orchestration goes on after them."""
    output = demo.run("retrying_many", {"key": "many", "n": 40})["output"]
    assert output == [[f"ok after {1 + i % 4}" for i in range(40)], 49]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        pytest.param(
            "retrying",
            {"key": "r2", "succeed_on": 9},
            "Activity function 'flaky' failed:  ValueError: attempt 4",
            id="retry exhausted",
        ),
        pytest.param(
            "failing",
            None,
            "Orchestrator function 'failing' failed: Activity function 'flaky' failed:  ValueError",
            id="activity",
        ),
        pytest.param("unknown_activity", None, "The function 'nope' doesn't exist", id="unknown activity"),
    ],
)
def test_an_orchestration_fails_with(demo, name, body, message):
    """A failed instance's output is production's message."""
    status = demo.run(name, body)
    assert status["runtimeStatus"] == "Failed"
    assert message in status["output"]


def test_an_orchestrator_catches_what_its_activity_and_its_sub_orchestration_raise(demo):
    """Failures arrive as exceptions with the original text."""
    assert "ValueError: attempt" in demo.run("catching")["output"]
    assert demo.run("parent_of_failing")["output"].startswith("caught: ")


def test_a_timer_fires_after_its_time_and_not_long_after(demo):
    """Durable time passes between creating and firing."""
    assert 0.2 <= demo.run("timer", {"s": 0.2})["output"] < 2


def test_the_custom_status_is_the_last_one_set(demo):
    """It survives continue-as-new and episodes that set none."""
    assert demo.run("counting", {"i": 0, "to": 3})["customStatus"] == {"at": 3}


def test_external_events_reach_the_orchestrator_in_turn(demo):
    """202 while it runs, 410 once it has finished."""
    links = demo.start("approval")
    demo.until(links, lambda status: status["customStatus"] == "waiting")
    event = links["sendEventPostUri"].replace("{eventName}", "go")
    assert [demo.call("POST", event, body)[0] for body in ({"by": "me"}, 5)] == [202, 202]
    assert demo.wait(links)["output"] == [{"by": "me"}, 5]
    assert demo.call("POST", event, 1)[0] == 410


def test_terminate_ends_an_instance_with_the_reason(demo):
    """The reason is the output."""
    links = demo.start("approval")
    assert demo.call("POST", links["terminatePostUri"].replace("{text}", "enough"))[0] == 202
    status = demo.wait(links)
    assert (status["runtimeStatus"], status["output"]) == ("Terminated", "enough")


def test_a_suspended_instance_keeps_its_events_until_it_is_resumed(demo):
    """Suspended is a status of its own, answered with 202."""
    links = demo.start("approval")
    demo.until(links, lambda status: status["customStatus"] == "waiting")
    assert demo.call("POST", links["suspendPostUri"].replace("{text}", "hold"))[0] == 202
    demo.until(links, lambda status: status["runtimeStatus"] == "Suspended")
    for body in (1, 2):
        assert demo.call("POST", links["sendEventPostUri"].replace("{eventName}", "go"), body)[0] == 202
    code, _, status = demo.call("GET", links["statusQueryGetUri"])
    assert (code, status["runtimeStatus"]) == (202, "Suspended")
    assert demo.call("POST", links["resumePostUri"].replace("{text}", "on"))[0] == 202
    assert sorted(demo.wait(links)["output"]) == [1, 2]


def test_entities_are_signalled_called_and_read(demo, until):
    """Calls answer in order, an operation's error is raised, state is readable and listed."""
    output = demo.run("entity_caller", {"key": "k1"})["output"]
    assert output[:2] == [7, [8, 8]]
    assert "boom" in output[2]
    assert demo.call("GET", f"{demo.durable}/entities/counter/k1")[2] == 8
    assert demo.call("POST", f"{demo.durable}/entities/counter/k1?op=add", "2")[0] == 202  # the SDK encodes twice
    until(lambda: demo.call("GET", f"{demo.durable}/entities/counter/k1")[2], lambda state: state == 10)
    listed = demo.call("GET", f"{demo.durable}/entities/counter?fetchState=true")[2]
    assert {"name": "counter", "key": "k1"} in [entity["entityId"] for entity in listed]
    assert demo.call("GET", f"{demo.durable}/entities/counter/none")[0] == 404


def test_starting_an_unknown_orchestrator_is_refused(demo):
    """400 with the extension's message; the app's own starter fails with it."""
    code, _, body = demo.call("POST", f"{demo.durable}/orchestrators/nonesuch")
    assert code == 400
    assert "doesn't exist" in body["ExceptionMessage"]
    assert demo.call("POST", "/api/start/nonesuch", 1)[0] == 500


def test_an_http_starter_can_wait_for_the_output(demo):
    """wait_for_completion_or_create_check_status_response answers with it."""
    assert demo.call("POST", "/api/wait/fan", {"n": 3})[::2] == (200, 5)
    url = f"{demo.durable}/orchestrators/fan?timeout=10&pollingInterval=0.02"
    assert demo.call("POST", url, '{"n": 4}')[::2] == (200, 14)


def test_a_timer_trigger_runs_by_hand(demo, until):
    """Its durable client starts an instance."""
    assert demo.call("POST", "/admin/functions/nightly")[0] == 202
    nightly = f"{demo.durable}/instances/nightly"
    assert until(lambda: demo.call("GET", nightly), lambda answer: answer[0] == 200)[2]["output"] == 5
    assert demo.call("POST", "/admin/functions/nonesuch")[0] == 404


def test_the_functions_are_listed(demo):
    """GET /admin/functions names every function and its trigger."""
    listed = {f["name"]: f["config"]["bindings"][0]["type"] for f in demo.call("GET", "/admin/functions")[2]}
    assert listed["nightly"] == "timerTrigger"
    assert listed["fan"] == "orchestrationTrigger"
    assert listed["http_start"] == "httpTrigger"


def test_instances_are_listed_by_status_and_in_pages(demo):
    """A continuation token leads to the next page."""
    for _ in range(3):
        demo.run("unknown_activity")
    code, headers, page = demo.call("GET", f"{demo.durable}/instances?runtimeStatus=Failed&top=2")
    assert (code, len(page), {status["runtimeStatus"] for status in page}) == (200, 2, {"Failed"})
    assert headers["x-ms-continuation-token"] == "2"


def test_history_restart_and_purge(demo):
    """History is folded as the extension folds it; a restart has a new id; a purged instance is gone."""
    links = demo.start("parent")
    demo.wait(links)
    status = demo.call("GET", links["statusQueryGetUri"] + "&showHistory=true&showHistoryOutput=true")[2]
    kinds = [event["EventType"] for event in status["historyEvents"]]
    assert kinds == ["ExecutionStarted", *["SubOrchestrationInstanceCompleted"] * 2, "ExecutionCompleted"]
    assert [event.get("FunctionName") for event in status["historyEvents"][:3]] == ["parent", "fan", "retrying"]
    assert status["historyEvents"][1]["Result"] == 30
    code, _, again = demo.call("POST", links["restartPostUri"])
    assert code == 202
    assert again["id"] != links["id"]
    assert demo.wait(again)["output"][0] == 30
    assert demo.call("DELETE", links["purgeHistoryDeleteUri"])[::2] == (200, {"instancesDeleted": 1})
    assert demo.call("GET", links["statusQueryGetUri"])[0] == 404
    assert demo.call("POST", links["restartPostUri"])[0] == 404


def test_a_running_instance_is_neither_restarted_nor_purged(demo):
    """400 and a count of 0; then it still answers."""
    links = demo.start("approval")
    assert demo.call("POST", links["restartPostUri"])[0] == 400
    assert demo.call("DELETE", links["purgeHistoryDeleteUri"])[2] == {"instancesDeleted": 0}
    demo.call("POST", links["terminatePostUri"])
    assert demo.wait(links)["runtimeStatus"] == "Terminated"


def test_purging_by_filter_takes_only_what_it_names(demo):
    """createdTimeFrom is required; 404 when nothing matches."""
    failed, completed = demo.start("unknown_activity"), demo.start("fan", {"n": 1})
    demo.wait(failed)
    demo.wait(completed)
    url = f"{demo.durable}/instances?runtimeStatus=Failed"
    assert demo.call("DELETE", url)[0] == 400
    assert demo.call("DELETE", f"{url}&createdTimeFrom=2020-01-01T00:00:00Z")[2]["instancesDeleted"] >= 1
    assert demo.call("GET", failed["statusQueryGetUri"])[0] == 404
    assert demo.call("GET", completed["statusQueryGetUri"])[0] == 200
    assert demo.call("DELETE", f"{url}&createdTimeFrom=2020-01-01T00:00:00Z")[0] == 404


@pytest.mark.parametrize("identifier", ["/api/echo/abc/7?q=1", "/api/echo/abc?q=1"], ids=["with", "without"])
def test_an_http_function_sees_its_route_parameters_query_and_body(demo, identifier):
    """A constraint and an optional parameter in the route; a synchronous function runs beside the loop."""
    code, headers, seen = demo.call("PUT", identifier, [1])
    assert code == 201
    assert seen == {
        "method": "PUT",
        "route": {"kind": "abc"} | ({"id": "7"} if "7" in identifier else {}),
        "q": "1",
        "body": "[1]",
    }
    assert headers["content-type"].startswith("application/json")
    assert headers["x-thread"] != "MainThread"


def test_an_http_function_that_raises_answers_500_and_the_host_lives_on(demo):
    """Another method is refused by the route."""
    assert demo.call("GET", "/api/broken")[0] == 500
    assert demo.call("POST", "/api/broken")[0] == 405
    assert demo.call("GET", "/admin/functions")[0] == 200
