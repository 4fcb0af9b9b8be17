"""Instances, their histories and their inboxes in SQLite, so that a local host survives being killed.

Invariant: everything one engine call changes is committed at once, under the engine's lock, before anybody sees its effect;
queues are not stored, because whatever history shows as scheduled and not settled is issued again on start. Activities
therefore run at least once, as in Azure. Guards against a killed process, not against power loss (WAL, synchronous=NORMAL);
one process per file; a change of durabletask's protobufs makes an old file unreadable.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
from durabletask.testing.in_memory_backend import EntityState, OrchestrationInstance
from google.protobuf.wrappers_pb2 import StringValue

_SCHEMA = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS instances(id TEXT PRIMARY KEY, state BLOB);
CREATE TABLE IF NOT EXISTS history(id TEXT, seq INTEGER, event BLOB, PRIMARY KEY(id, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inbox(n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, event BLOB);
CREATE INDEX IF NOT EXISTS inbox_id ON inbox(id);
CREATE TABLE IF NOT EXISTS parents(sub TEXT PRIMARY KEY, parent TEXT, task INTEGER);
CREATE TABLE IF NOT EXISTS entities(id TEXT PRIMARY KEY, state TEXT, locked_by TEXT);
"""


class Journal:
    """One SQLite file; every method is called under the engine's lock."""

    def __init__(self, path: Path) -> None:
        """Open or create the file; its folder must exist."""
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(_SCHEMA)
        # id(event) -> (inbox row, the event, kept alive so that its id stays its own)
        self._rows: dict[int, tuple[int, Any]] = {}

    def commit(self) -> None:
        """Make what was written since the last commit durable."""
        self._db.commit()

    def rollback(self) -> None:
        """Forget what was written since the last commit."""
        self._db.rollback()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def inbox(self, instance: Any) -> None:
        """Record the events that have reached an instance since it was last recorded."""
        if not instance.history and instance.status == pb.ORCHESTRATION_STATUS_PENDING:
            self._db.execute(
                "INSERT OR REPLACE INTO instances VALUES(?,?)", (instance.instance_id, _state_of(instance))
            )
            if not any(id(event) in self._rows for event in instance.pending_events + instance.dispatched_events):
                # a new instance, or one that replaces a finished instance of the same id
                self._db.execute("DELETE FROM history WHERE id=?", (instance.instance_id,))
                self._db.execute("DELETE FROM inbox WHERE id=?", (instance.instance_id,))
        self._append(instance.instance_id, instance.pending_events)

    def episode(self, instance: Any, before: int, dispatched: Iterable[Any], *, continued: bool) -> None:
        """Record an episode: history from index `before` on, and that the `dispatched` events are consumed."""
        self._drop(dispatched)
        if continued:
            self._db.execute("DELETE FROM history WHERE id=?", (instance.instance_id,))
            self._drop(instance.pending_events)  # appended again, in their new order
            self._append(instance.instance_id, instance.pending_events)
        self._db.executemany(
            "INSERT OR REPLACE INTO history VALUES(?,?,?)",
            (
                (instance.instance_id, number, event.SerializeToString())
                for number, event in enumerate(instance.history[before:], before)
            ),
        )
        self._db.execute("INSERT OR REPLACE INTO instances VALUES(?,?)", (instance.instance_id, _state_of(instance)))

    def parent(self, sub: str, parent: str, task_id: int) -> None:
        """Record whom a sub-orchestration reports to."""
        self._db.execute("INSERT OR REPLACE INTO parents VALUES(?,?,?)", (sub, parent, task_id))

    def orphan(self, parents: Iterable[str]) -> None:
        """Record that the sub-orchestrations which `parents` started until now report to nobody."""
        self._db.executemany("UPDATE parents SET task=NULL WHERE parent=?", [(parent,) for parent in parents])

    def entity_inbox(self, entity: Any) -> None:
        """Record the operations that have reached an entity."""
        self._db.execute(
            "INSERT OR IGNORE INTO entities VALUES(?,?,?)",
            (entity.instance_id, entity.serialized_state, entity.locked_by),
        )
        self._append(entity.instance_id, entity.pending_operations)

    def entity(self, entity: Any, dispatched: Iterable[Any]) -> None:
        """Record an entity's new state and that the `dispatched` operations are consumed."""
        self._drop(dispatched)
        self._db.execute(
            "INSERT OR REPLACE INTO entities VALUES(?,?,?)",
            (entity.instance_id, entity.serialized_state, entity.locked_by),
        )

    def purge(self, instance_ids: Iterable[str]) -> None:
        """Forget these instances."""
        keys = [(instance_id,) for instance_id in instance_ids]
        for statement in (
            "DELETE FROM instances WHERE id=?",
            "DELETE FROM history WHERE id=?",
            "DELETE FROM inbox WHERE id=?",
            "DELETE FROM parents WHERE sub=?",
        ):
            self._db.executemany(statement, keys)

    def load_parents(self) -> dict[str, tuple[str, int | None]]:
        """Sub-orchestration id -> (parent id, the parent's task id, None for an orphan)."""
        return {sub: (parent, task_id) for sub, parent, task_id in self._db.execute("SELECT * FROM parents")}

    def load_instances(self) -> Iterator[Any]:
        """Every instance with its history and its inbox."""
        for instance_id, blob in self._db.execute("SELECT id, state FROM instances").fetchall():
            state = pb.OrchestrationState.FromString(blob)
            history = self._db.execute("SELECT event FROM history WHERE id=? ORDER BY seq", (instance_id,))
            yield OrchestrationInstance(
                instance_id,
                state.name,
                state.orchestrationStatus,
                version=_value(state, "version"),
                input=_value(state, "input"),
                output=_value(state, "output"),
                custom_status=_value(state, "customStatus"),
                created_at=state.createdTimestamp.ToDatetime(UTC),
                last_updated_at=state.lastUpdatedTimestamp.ToDatetime(UTC),
                completed_at=state.completedTimestamp.ToDatetime(UTC) if state.HasField("completedTimestamp") else None,
                failure_details=state.failureDetails if state.HasField("failureDetails") else None,
                history=[pb.HistoryEvent.FromString(event) for (event,) in history],
                pending_events=self._load_inbox(instance_id),
            )

    def load_entities(self) -> Iterator[Any]:
        """Every entity with its state and its inbox."""
        for entity_id, state, locked_by in self._db.execute("SELECT id, state, locked_by FROM entities").fetchall():
            yield EntityState(entity_id, state, locked_by=locked_by, pending_operations=self._load_inbox(entity_id))

    def _append(self, owner: str, events: Sequence[Any]) -> None:
        fresh: list[Any] = []
        for event in reversed(events):  # those recorded already come first
            if id(event) in self._rows:
                break
            fresh.append(event)
        for event in reversed(fresh):
            cursor = self._db.execute("INSERT INTO inbox(id, event) VALUES(?,?)", (owner, event.SerializeToString()))
            assert cursor.lastrowid is not None
            self._rows[id(event)] = (cursor.lastrowid, event)

    def _drop(self, events: Iterable[Any]) -> None:
        gone = [self._rows.pop(id(event)) for event in events if id(event) in self._rows]
        self._db.executemany("DELETE FROM inbox WHERE n=?", [(row,) for row, _ in gone])

    def _load_inbox(self, owner: str) -> list[Any]:
        events: list[Any] = []
        for row, blob in self._db.execute("SELECT n, event FROM inbox WHERE id=? ORDER BY n", (owner,)).fetchall():
            event = pb.HistoryEvent.FromString(blob)
            self._rows[id(event)] = (row, event)
            events.append(event)
        return events


def _state_of(instance: Any) -> bytes:
    def optional(value: str | None) -> Any:
        return StringValue(value=value) if value is not None else None

    state = pb.OrchestrationState(
        instanceId=instance.instance_id,
        name=instance.name,
        orchestrationStatus=instance.status,
        version=optional(instance.version),
        input=optional(instance.input),
        output=optional(instance.output),
        customStatus=optional(instance.custom_status),
        failureDetails=instance.failure_details,
    )
    state.createdTimestamp.FromDatetime(instance.created_at)
    state.lastUpdatedTimestamp.FromDatetime(instance.last_updated_at)
    if instance.completed_at:
        state.completedTimestamp.FromDatetime(instance.completed_at)
    encoded: bytes = state.SerializeToString()
    return encoded


def _value(state: Any, field: str) -> str | None:
    return getattr(state, field).value if state.HasField(field) else None
