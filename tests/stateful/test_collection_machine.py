"""A store that is collected, beside its plain-Python twin: what anyone could still name is whole, all else is gone.

The twin knows every state that was ever made, by id; what a collection without grace must keep follows from who names
it: a branch's kept history, a tag, a held snapshot, or a kept state that it is nested in.
"""

import gc
import itertools
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import helios_shm

RING_BYTES = 4 << 20
NOW = timedelta(0)
NAMES = ("main", "side")
NESTED = "nested"

keys = st.sampled_from([f"k{i:02}" for i in range(40)])
values = st.sampled_from([0, 64, 65, 5000, 262_144]).map(lambda size: b"v" * size)
edits = st.dictionaries(keys, values, min_size=1, max_size=25)
names = st.sampled_from(NAMES)
State = dict[str, bytes]


class CollectionMachine(RuleBasedStateMachine):
    path: ClassVar[Path]
    places = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, State] = {}
        self.nested: dict[str, str] = {}  # state -> the one in it
        self.logs: dict[str, list[str]] = {}
        self.tags: dict[str, str] = {}
        self.held: dict[str, helios_shm.Snapshot] = {}
        self.store = self.path / str(next(self.places))
        self.engine = helios_shm.open(self.store, l1_bytes=RING_BYTES)

    def teardown(self) -> None:
        self.held.clear()
        self.engine.close()

    # --- making states, and naming them ---

    def made(self, id: str, state: State, inner: str | None) -> None:
        self.states[id] = state
        if inner is not None:
            self.nested[id] = inner

    @rule(name=names, edits=edits, nests=st.booleans())
    def commit(self, name: str, edits: State, nests: bool) -> None:
        old = self.logs.get(name, [""])[-1]
        state, inner = {**self.states.get(old, {}), **edits}, self.nested.get(old)
        with self.engine.branch(name).transaction("c") as ws:
            ws.update(edits)
            if nests and self.held:
                inner = next(iter(self.held))
                ws.put(NESTED, self.held[inner])
        id = self.engine.branch(name).head.id
        self.logs.setdefault(name, []).append(id)
        self.made(id, state, inner)

    @rule(edits=edits, holds=st.booleans())
    def detach(self, edits: State, holds: bool) -> None:
        ws = self.engine.empty.fork()
        ws.update(edits)
        snapshot = ws.commit().snapshot
        self.made(snapshot.id, edits, None)
        if holds:
            self.held[snapshot.id] = snapshot

    @precondition(lambda self: self.held)
    @rule(at=st.integers(0, 99))
    def let_go(self, at: int) -> None:
        del self.held[sorted(self.held)[at % len(self.held)]]

    @precondition(lambda self: self.held)
    @rule(name=names, at=st.integers(0, 99))
    def tag(self, name: str, at: int) -> None:
        id = sorted(self.held)[at % len(self.held)]
        if name in self.tags:
            self.engine.delete_tag(name)
        self.engine.tag(name, self.held[id])
        self.tags[name] = id

    @rule(name=names)
    def delete(self, name: str) -> None:
        if self.logs.pop(name, None):
            self.engine.branch(name).delete()

    @rule()
    def reopen(self) -> None:
        self.held.clear()
        self.engine.close()
        self.engine = helios_shm.open(self.store, l1_bytes=RING_BYTES)

    # --- collecting ---

    def whole(self, id: str) -> None:
        snapshot = self.engine.snapshot(id)
        found = dict(snapshot)
        if id in self.nested:
            assert snapshot.nested(NESTED).id == self.nested[id]
            del found[NESTED]
        assert found == self.states[id]

    @rule(history=st.sampled_from([None, 1, 2, 5]), dry_run=st.booleans())
    def collect(self, history: int | None, dry_run: bool) -> None:
        gc.collect()  # of failed looks, whose tracebacks hold what they looked at
        self.engine.gc(history=history, grace=NOW, dry_run=dry_run)
        if dry_run:
            return
        if history is not None:
            self.logs = {name: log[-history:] for name, log in self.logs.items()}
        named = {*itertools.chain(*self.logs.values()), *self.tags.values(), *self.held}
        while more := {self.nested[id] for id in named if id in self.nested} - named:
            named |= more
        for id in list(self.states):
            if id in named:
                self.whole(id)
            else:
                with pytest.raises(helios_shm.NotFoundError):
                    self.engine.snapshot(id)
                del self.states[id]
                self.nested.pop(id, None)

    @invariant()
    def logs_agree(self) -> None:
        for name, log in self.logs.items():
            assert [commit.snapshot.id for commit in self.engine.branch(name).log()] == log[::-1]
        assert {name: snapshot.id for name, snapshot in self.engine.tags().items()} == self.tags


def test_what_is_named_is_whole_and_all_else_is_gone(tmp_path: Path) -> None:
    machine = type("Machine", (CollectionMachine,), {"path": tmp_path})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=6,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
        ),
    )
