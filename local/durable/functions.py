"""The function app, indexed as the Functions worker indexes it: names, triggers, bindings and how to call each function.

Invariant: an app that is refused here is refused in Azure: one top-level app object, and a binding for every parameter.
"""

import importlib
import inspect
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import azure.functions as func

_TABLES = {
    "orchestrationTrigger": ("orchestrator", "orchestration"),
    "activityTrigger": ("activity", "activity"),
    "entityTrigger": ("entity", "entity_name"),
}


class AppNotIndexedError(Exception):
    """The function app cannot be loaded; the message says which file or function, and why."""


class Function:
    """One indexed function; values go through azure-functions' own binding converters, as in the worker."""

    def __init__(self, indexed: Any) -> None:
        """`indexed` is an azure.functions Function; raises AppNotIndexedError for a parameter without a binding."""
        self.name: str = indexed.get_function_name()
        self.trigger: Any = indexed.get_trigger()
        if self.trigger is None:
            raise AppNotIndexedError(f"function {self.name!r} has no trigger")
        self.kind: str = self.trigger.get_binding_name()
        self.call: Callable[..., Any] = indexed.get_user_function()
        self.is_async = inspect.iscoroutinefunction(self.call)
        bindings = indexed.get_bindings()
        self.clients = [binding.name for binding in bindings if binding.get_binding_name() == "durableClient"]
        bound = {binding.name for binding in bindings}
        parameters = inspect.signature(self.call).parameters
        self.wants_context = "context" in parameters and "context" not in bound
        if missing := sorted(set(parameters) - bound - {"context"}):
            raise AppNotIndexedError(
                f"function {self.name!r}: parameters {missing} have no binding; bound: {sorted(bound)}"
            )
        if absent := sorted(bound - set(parameters) - {"$return"}):
            raise AppNotIndexedError(f"function {self.name!r}: bindings {absent} are not among its parameters")
        self.converter: Any = func.get_binding_registry().get(self.kind)

    def arguments(self, value: Any, client_binding: Callable[[], str], directory: Path) -> dict[str, Any]:
        """The keyword arguments of one invocation."""
        arguments = {self.trigger.name: value} | {name: client_binding() for name in self.clients}
        if self.wants_context:
            arguments["context"] = InvocationContext(self.name, directory)
        return arguments


class InvocationContext(func.Context):  # type: ignore[misc]  # azure.functions is untyped here: a base class of Any
    """What the worker passes to a parameter named `context`."""

    def __init__(self, name: str, directory: Path) -> None:
        """Give it a new invocation id."""
        self._invocation_id = str(uuid.uuid4())
        self._name, self._directory = name, str(directory)
        self._local = threading.local()

    invocation_id = property(lambda self: self._invocation_id)
    function_name = property(lambda self: self._name)
    function_directory = property(lambda self: self._directory)
    thread_local_storage = property(lambda self: self._local)
    trace_context = property(lambda _: None)
    retry_context = property(lambda _: None)


class App:
    """A function app's functions, by name, and its durable functions by kind and lower-case durable name."""

    def __init__(self, functions: list[Function], directory: Path) -> None:
        """`directory` is where host.json is looked for."""
        self.directory = directory
        self.functions = {function.name: function for function in functions}
        self.durable: dict[str, dict[str, Function]] = {"orchestrator": {}, "activity": {}, "entity": {}}
        for function in functions:
            if function.kind in _TABLES:
                table, attribute = _TABLES[function.kind]
                name = getattr(function.trigger, attribute) or function.name
                self.durable[table][name.lower()] = function
        settings = directory / "host.json"
        self.config: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}

    @property
    def known(self) -> dict[str, set[str]]:
        """The names of the durable functions, lower case, by kind."""
        return {kind: set(table) for kind, table in self.durable.items()}

    @property
    def durable_config(self) -> dict[str, Any]:
        """host.json's extensions.durableTask."""
        section: dict[str, Any] = self.config.get("extensions", {}).get("durableTask", {})
        return section


def index(register: Any, directory: Path) -> App:
    """The App of a DFApp or FunctionApp object, which may be indexed any number of times."""
    register.functions_bindings = None  # azure-functions takes a second call for duplicate names
    try:
        return App([Function(indexed) for indexed in register.get_functions()], directory)
    except ValueError as error:  # duplicate names, a function without a trigger
        raise AppNotIndexedError(f"the function app in {directory} cannot be indexed: {error}") from error


def load(directory: Path) -> App:
    """The App of `directory`'s function_app.py (or PYTHON_SCRIPT_FILE_NAME), imported as the worker does.

    Puts `directory` on sys.path, and local.settings.json's Values into the environment where they are not set yet. Raises
    AppNotIndexedError when the module cannot be imported or is not one indexable app.
    """
    directory = directory.resolve()
    script = directory / os.environ.get("PYTHON_SCRIPT_FILE_NAME", "function_app.py")
    if not script.is_file():
        raise AppNotIndexedError(f"there is no {script.name} in {directory}; give the folder of a function app")
    settings = directory / "local.settings.json"
    if settings.exists():
        for key, value in json.loads(settings.read_text(encoding="utf-8")).get("Values", {}).items():
            os.environ.setdefault(key, value)
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    loaded = sys.modules.get(script.stem)
    if loaded is not None and Path(loaded.__file__ or "").resolve() != script:
        del sys.modules[script.stem]  # another app's, in a process that hosts several one after the other
    try:
        module = importlib.import_module(script.stem)
    except Exception as error:  # the app's own code runs: anything may be raised, and all of it means this
        raise AppNotIndexedError(f"{script} cannot be imported: {type(error).__name__}: {error}") from error
    apps = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionRegister)}
    if len(apps) != 1:
        raise AppNotIndexedError(f"{script} must have one function app at its top level; it has {len(apps)}")
    return index(next(iter(apps.values())), directory)
