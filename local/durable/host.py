"""One running function app: its engine, its threads, and the in-process API that tests use.

    with Host("path/to/app") as host:                    # or Host(functions=app), a DFApp object
        status = host.run("load", {"n": 3})              # start, wait: the status, as a durable client sees it
        instance_id = host.hub.start("load", {"n": 3})   # host.hub: start, status, wait, history, raise_event, terminate, …

Invariant: what a Host starts (timer thread, dispatcher, pools, loop) ends with `close`, so that nothing of one test runs in the
next. host.json's maxConcurrentActivityFunctions and maxConcurrentOrchestratorFunctions bound the threads; functionTimeout is
not enforced, because a thread cannot be stopped: keep activities well under Azure's limit yourself.
"""

import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from local.durable import functions as indexing
from local.durable.engine import Engine, EngineError
from local.durable.taskhub import Status, TaskHub
from local.durable.worker import Deliver, Worker, deliver_once

log = logging.getLogger(__name__)


def _peak_bytes(maxrss: int) -> int:
    """The most memory that this process had. Linux's maxrss (KiB) begins with that of whoever started the process, so it is asked elsewhere there."""
    status = Path("/proc/self/status")
    if status.exists():
        high = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        if high is not None:
            return 1024 * int(high.split()[1])
    return maxrss * (1 if sys.platform == "darwin" else 1024)  # macOS counts bytes


class Host:
    """A function app that runs; close it, or use it as a context manager."""

    def __init__(
        self,
        app_dir: Path | str | None = None,
        *,
        functions: Any = None,
        config: dict[str, Any] | None = None,
        journal: Path | str | None = None,
        port: int = 0,
        deliver: Deliver = deliver_once,
    ) -> None:
        """Index the app and start running what is due.

        `functions`: the app object itself, instead of a folder with function_app.py. `config` replaces host.json. `journal`:
        SQLite file that instances survive in; without it they live in memory. `port`: where the HTTP surface will be, for the
        URLs of durableClient bindings (`server.serve` sets it otherwise). `deliver` decides how often and when an activity
        runs. Raises functions.AppNotIndexedError.
        """
        directory = Path(app_dir or ".")
        self.app = indexing.load(directory) if functions is None else indexing.index(functions, directory)
        if config is not None:
            self.app.config = config
        self.port = port
        durable = self.app.durable_config
        default = 10 * (os.cpu_count() or 1)  # the extension's
        self._activities = ThreadPoolExecutor(durable.get("maxConcurrentActivityFunctions", default), "activity")
        # replaying is pure Python: more than a few threads only take turns
        replays = min(4, durable.get("maxConcurrentOrchestratorFunctions", default))
        self._orchestrators = ThreadPoolExecutor(replays, "orchestrator")
        self.engine = Engine(Path(journal) if journal else None)
        self.hub = TaskHub(self.app, self.engine)
        self._worker = Worker(self.app, self.engine, self.client_binding, deliver)
        self._work_cpu_s = self._dispatcher_cpu_s = 0.0
        self._work_lock = threading.Lock()
        self._dispatcher = threading.Thread(target=self._dispatch, name="durable-dispatcher", daemon=True)
        self._dispatcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, name: str, value: Any = None, timeout_s: float = 30) -> Status:
        """Start orchestrator `name` with a JSON value and return its status once it has finished; raises TimeoutError."""
        return self.hub.wait(self.hub.start(name, value), timeout_s)

    def close(self) -> None:
        """Stop taking work, cancel async activities, wait for sync ones, end every thread; results of both are dropped."""
        self.stop()
        self._dispatcher.join()
        for pool in (self._activities, self._orchestrators):
            pool.shutdown(wait=False, cancel_futures=True)
        self._worker.cancel_async()
        for pool in (self._activities, self._orchestrators):
            pool.shutdown()
        self._worker.close()

    def stop(self) -> None:
        """Stop taking work and refuse results, at once; what runs goes on in its threads."""
        self.engine.close()

    def usage(self) -> dict[str, float | int]:
        """CPU seconds and peak memory of this process, orchestrator episodes, and the longest history of any instance.

        `engine_cpu_s`: what the process spent outside of activities: replaying orchestrators, passing messages, and the thread that asks, which
        serves HTTP (and has imported the app: take differences). Activities that chaos delivers are not told apart.
        """
        with self._work_lock:
            outside = self._work_cpu_s - self._worker.activity_cpu_s + self._dispatcher_cpu_s
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak_bytes = _peak_bytes(used.ru_maxrss)
        return {
            "cpu_s": round(used.ru_utime + used.ru_stime, 3),
            "engine_cpu_s": round(outside + time.thread_time(), 3),
            "peak_memory_mb": round(peak_bytes / 1e6, 1),
            "pid": os.getpid(),
            "episodes": self.engine.episodes,
            "history_events_max": self.engine.history_events_max,
        }

    def _dispatch(self) -> None:
        runs: dict[str, tuple[Callable[[Any, str], None], ThreadPoolExecutor]] = {
            "orchestratorRequest": (self._worker.orchestrate, self._orchestrators),
            "activityRequest": (self._worker.activity, self._activities),
            "entityRequestV2": (self._worker.entity, self._orchestrators),
        }
        for item in self.engine.work_items():
            kind = item.WhichOneof("request")
            run, pool = runs[kind]
            pool.submit(self._guarded, run, getattr(item, kind), item.completionToken)
            self._dispatcher_cpu_s = time.thread_time()

    def _guarded(self, run: Callable[[Any, str], None], request: Any, token: str) -> None:
        begun = time.thread_time()
        try:
            run(request, token)
        except EngineError as error:
            if error.code != "UNAVAILABLE":  # that is the host closing while this ran
                log.exception("the engine refused the result of a work item")
        except Exception:  # a future nobody looks at would swallow it
            log.exception("a work item failed in the local host")
        finally:
            with self._work_lock:
                self._work_cpu_s += time.thread_time() - begun

    @property
    def hub_name(self) -> str:
        """host.json's extensions.durableTask.hubName."""
        name: str = self.app.durable_config.get("hubName", "TestHubName")
        return name

    def client_binding(self) -> str:
        """The JSON that the extension gives to a durableClient parameter (BindingHelper.cs)."""
        base = f"http://127.0.0.1:{self.port}/runtime/webhooks/durabletask"
        create = base + "/orchestrators/{functionName}[/{instanceId}]"
        wait = "?timeout={timeoutInSeconds}&pollingInterval={intervalInSeconds}&code=local"
        return json.dumps(
            {
                "taskHubName": self.hub_name,
                "connectionName": "Storage",
                "baseUrl": base,
                "httpBaseUrl": base,
                "requiredQueryStringParameters": "code=local",
                "rpcBaseUrl": f"http://127.0.0.1:{self.port}/durabletask/",
                "creationUrls": {
                    "createNewInstancePostUri": f"{create}?code=local",
                    "createAndWaitOnNewInstancePostUri": f"{create}{wait}",
                },
                "managementUrls": self.links(base, "INSTANCEID"),
            }
        )

    def links(self, base: str, instance_id: str) -> dict[str, str]:
        """The management URLs of an instance (BindingHelper.cs)."""
        where = f"{base}/instances/{quote(instance_id, safe='')}"
        query = f"taskHub={self.hub_name}&connection=Storage&code=local"
        return {
            "id": instance_id,
            "statusQueryGetUri": f"{where}?{query}",
            "sendEventPostUri": f"{where}/raiseEvent/{{eventName}}?{query}",
            "terminatePostUri": f"{where}/terminate?reason={{text}}&{query}",
            "rewindPostUri": f"{where}/rewind?reason={{text}}&{query}",
            "purgeHistoryDeleteUri": f"{where}?{query}",
            "restartPostUri": f"{where}/restart?{query}",
            "suspendPostUri": f"{where}/suspend?reason={{text}}&{query}",
            "resumePostUri": f"{where}/resume?reason={{text}}&{query}",
        }
