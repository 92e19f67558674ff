"""A store beside its plain-Python twin: whatever is done to both, they agree, root ids included.

The ring is the smallest there is, and some values are large: states leave L1 while the machine runs, and are read
from L2. Every rule looks at what it touched; the invariant looks at every branch.
"""

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import helios_shm
from helios_shm import config
from helios_shm.l1 import L1
from helios_shm.types import KINDS
from tests import model

BRANCHES = ("main", "side", "été")
RING_BYTES = 4 << 20
BALLAST_BYTES = 48 << 10
# Enough ballast to go more than once around the ring.
BALLAST_COUNT = 3 * RING_BYTES // (2 * BALLAST_BYTES)

keys = st.one_of(
    st.sampled_from([f"k{i:02}" for i in range(40)]),
    st.sampled_from(["a", "a/", "a/b", "a/é", "a/€", "a/\U0001f600", "\0", "\x7f", "z" * 30]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)
values = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([0, 64, 65, 4095, 4096, 20_000, 300_000]).map(lambda size: b"v" * size),
)
Edit: TypeAlias = tuple[str, tuple[int, bytes] | None]
edits = st.lists(st.tuples(keys, st.none() | st.tuples(st.sampled_from(range(4)), values)), max_size=40)
bounds = st.none() | keys
branches = st.sampled_from(BRANCHES)


Taken: TypeAlias = tuple[helios_shm.Snapshot, model.State]


@dataclass
class Pair:
    """A workspace and its twin. ``incarnation``: of its branch when it was forked; None if there was none."""

    real: helios_shm.Workspace
    twin: model.Workspace
    generation: int
    incarnation: int | None = None


class StoreMachine(RuleBasedStateMachine):
    path: ClassVar[Path]
    places = itertools.count()

    workspaces = Bundle("workspaces")
    snapshots = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.place = f"{next(self.places)}/"
        self.model = model.Model()
        self.deletions = dict.fromkeys(BRANCHES, 0)
        self.generation = 0
        self.open()

    def open(self) -> None:
        self.engine = helios_shm.open(self.path, l1_bytes=RING_BYTES)
        self.handles = {name: self.engine.branch(self.place + name) for name in BRANCHES}
        self.generation += 1

    def teardown(self) -> None:
        self.engine.close(sync=False)

    # --- what both sides show ---

    def agree(self, snapshot: helios_shm.Snapshot, state: model.State) -> None:
        assert snapshot.id == model.root_id(state).hex()
        assert len(snapshot) == len(state)
        assert snapshot.nbytes == sum(len(value) for _, value in state.values())

    def agree_in_full(self, mapping: helios_shm.Snapshot | helios_shm.Workspace, state: model.State) -> None:
        expected = [(key.decode(), value) for key, (_, value) in model.scan(state)]
        assert list(mapping.items()) == expected
        assert list(reversed(mapping.items())) == expected[::-1]
        assert list(mapping) == [key for key, _ in expected]
        assert len(mapping) == len(expected)

    def here(self, snapshot: helios_shm.Snapshot) -> helios_shm.Snapshot:
        """The snapshot again, if the store was reopened since."""
        return self.engine.snapshot(snapshot.id)

    # --- making states ---

    @initialize(target=snapshots)
    def nothing(self) -> Taken:
        return self.engine.empty, {}

    @rule(target=workspaces, name=branches)
    def fork_branch(self, name: str) -> Pair:
        if name not in self.model.branches:
            assert self.handles[name].head == self.engine.empty
        return self.fork(name)

    @rule(target=workspaces, taken=snapshots)
    def fork_snapshot(self, taken: Taken) -> Pair:
        return Pair(self.here(taken[0]).fork(), model.Workspace(taken[1]), self.generation)

    def renew(self, pair: Pair) -> None:
        """A workspace does not outlive its engine: after reopening, it is forked again."""
        if pair.generation != self.generation:
            name = pair.twin.branch
            again = self.fork(name) if name is not None else self.fork_state(pair.twin.base)
            pair.real, pair.twin, pair.incarnation = again.real, again.twin, again.incarnation
            pair.generation = self.generation

    def fork(self, name: str) -> Pair:
        incarnation = self.deletions[name] if name in self.model.branches else None
        return Pair(self.handles[name].fork(), self.model.fork(name), self.generation, incarnation)

    def fork_state(self, state: model.State) -> Pair:
        snapshot = self.engine.snapshot(model.root_id(state).hex())
        return Pair(snapshot.fork(), model.Workspace(state), self.generation)

    @rule(pair=workspaces, edits=edits)
    def edit(self, pair: Pair, edits: list[Edit]) -> None:
        self.edit_pair(pair, edits)

    def edit_pair(self, pair: Pair, edits: list[Edit]) -> None:
        self.renew(pair)
        workspace, twin = pair.real, pair.twin
        for key, entry in edits:
            if entry is not None:
                kind, value = entry
                workspace.put(key, value, kind=KINDS[kind])
                twin.put(key.encode(), value, kind)
            elif key.encode() in twin.state():
                del workspace[key]
                twin.remove(key.encode())
            else:
                with pytest.raises(KeyError):
                    del workspace[key]
        assert workspace.edits == {
            key.decode(): None if entry is None else entry[1] for key, entry in twin.edits.items()
        }

    @rule(pair=workspaces)
    def read_workspace(self, pair: Pair) -> None:
        self.renew(pair)
        self.agree_in_full(pair.real, pair.twin.state())

    @rule(target=workspaces, pair=workspaces)
    def fork_workspace(self, pair: Pair) -> Pair:
        self.renew(pair)
        return Pair(pair.real.fork(), pair.twin.fork(), pair.generation, pair.incarnation)

    @rule(pair=workspaces)
    def discard(self, pair: Pair) -> None:
        self.renew(pair)
        pair.real.discard()
        pair.twin.discard()
        assert pair.real.edits == {}

    def lost_its_branch(self, pair: Pair) -> bool:
        """Was the branch that the workspace was forked from deleted since?"""
        if pair.incarnation is None:
            return False
        name = str(pair.twin.branch)
        return name not in self.model.branches or self.deletions[name] != pair.incarnation

    @rule(target=snapshots, pair=workspaces, rebase=st.booleans())
    def commit(self, pair: Pair, rebase: bool) -> Taken:
        return self.land(pair, rebase)

    def land(self, pair: Pair, rebase: bool) -> Taken:
        self.renew(pair)
        workspace, twin = pair.real, pair.twin
        name, before = twin.branch, dict(twin.edits)
        if self.lost_its_branch(pair):
            with pytest.raises(helios_shm.NotFoundError):
                workspace.commit("too late")
            assert set(workspace.edits) == {key.decode() for key in before}
            return workspace.base, twin.base
        moved = name is not None and model.diff(twin.base, self.model.head(name)) != []
        message = f"{len(before)} edits"
        try:
            if moved and not rebase:
                conflicts = {key for key, _, _ in model.diff(twin.base, self.model.head(str(name)))}
                raise model.Conflict(sorted(conflicts & before.keys()))
            sequence = None if name is None else self.model.sequence(name)
            if not before and name is not None:
                self.model.branches.setdefault(name, [{}]).append(self.model.head(name))
                twin.base = self.model.head(name)
            else:
                self.model.commit(twin)
        except model.Conflict as expected:
            with pytest.raises(helios_shm.ConflictError) as raised:
                workspace.commit(message, rebase=rebase)
            assert raised.value.keys == tuple(key.decode() for key in expected.keys)
            head = self.model.head(str(name))
            for conflict in raised.value.conflicts:
                key = conflict.path.encode()
                assert conflict.base == twin.base.get(key, (0, None))[1]
                assert conflict.ours == (before[key] or (0, None))[1]
                assert conflict.theirs == head.get(key, (0, None))[1]
            assert set(workspace.edits) == {key.decode() for key in before}
            return workspace.base, twin.base
        commit = workspace.commit(message, rebase=rebase)
        assert commit.message == message
        assert commit.branch == (None if name is None else self.place + name)
        assert commit.sequence == (None if sequence is None else sequence + 1)
        assert workspace.base == commit.snapshot
        assert not workspace.edits
        self.agree(commit.snapshot, twin.base)
        if name is not None:
            pair.incarnation = self.deletions[name]
        return commit.snapshot, twin.base

    @rule(target=snapshots, name=branches, first=edits, second=edits, rebase=st.booleans())
    def race(self, name: str, first: list[Edit], second: list[Edit], rebase: bool) -> Taken:
        """Two forks of one head, one after the other: the second is rebased, or told what it lost."""
        one, other = self.fork(name), self.fork(name)
        self.edit_pair(one, first)
        self.edit_pair(other, second)
        self.land(one, rebase=True)
        return self.land(other, rebase)

    # --- moving branches ---

    @rule(name=branches, taken=snapshots)
    def restore(self, name: str, taken: Taken) -> None:
        commit = self.handles[name].restore(self.here(taken[0]), "back")
        self.model.branches.setdefault(name, [{}]).append(taken[1])
        assert commit.sequence == self.model.sequence(name)
        assert commit.message == "back"

    @rule(name=branches, expected=snapshots, taken=snapshots)
    def compare_and_set(
        self,
        name: str,
        expected: Taken,
        taken: Taken,
    ) -> None:
        branch = self.handles[name]
        absent = name not in self.model.branches  # its head is the empty state
        if absent and expected[1]:
            with pytest.raises(helios_shm.NotFoundError):
                branch.compare_and_set(self.here(expected[0]), self.here(taken[0]))
            return
        matches = absent or self.model.head(name) == expected[1]
        assert branch.compare_and_set(self.here(expected[0]), self.here(taken[0])) is matches
        if matches:
            self.model.branches.setdefault(name, [{}]).append(taken[1])

    @rule(name=branches)
    def delete(self, name: str) -> None:
        if name not in self.model.branches:
            with pytest.raises(helios_shm.NotFoundError):
                self.handles[name].delete()
            return
        self.handles[name].delete()
        self.model.delete(name)
        self.deletions[name] += 1

    @rule(name=branches, taken=snapshots)
    def create(self, name: str, taken: Taken) -> None:
        if name in self.model.branches:
            with pytest.raises(helios_shm.ExistsError):
                self.engine.branch(self.place + name, at=self.here(taken[0]))
            return
        self.engine.branch(self.place + name, at=self.here(taken[0]))
        self.model.branches[name] = [{}, taken[1]]

    # --- looking ---

    @rule(name=branches, data=st.data())
    def history(self, name: str, data: st.DataObject) -> None:
        states = self.model.branches.get(name, [{}])[1:]
        if not states:
            with pytest.raises(helios_shm.NotFoundError):
                self.handles[name].at(1)
            return
        commits = list(self.handles[name].log())
        assert [commit.sequence for commit in commits] == list(range(len(states), 0, -1))
        assert [commit.snapshot.id for commit in commits] == [
            model.root_id(state).hex() for state in states[::-1]
        ]
        sequence = data.draw(st.integers(1, len(states)))
        assert self.handles[name].at(sequence) == commits[len(states) - sequence]
        with pytest.raises(helios_shm.NotFoundError):
            self.handles[name].at(len(states) + 1)

    @rule(taken=snapshots)
    def read_snapshot(self, taken: Taken) -> None:
        self.read_in_full(taken)

    def read_in_full(self, taken: Taken) -> None:
        snapshot, state = self.here(taken[0]), taken[1]
        self.agree(snapshot, state)
        self.agree_in_full(snapshot, state)
        for key, (kind, value) in state.items():
            stat = snapshot.stat(key.decode())
            assert (stat.kind, stat.size, snapshot[key.decode()]) == (KINDS[kind], len(value), value)

    @rule(taken=snapshots, prefix=st.just("") | keys, start=bounds, stop=bounds)
    def read_range(
        self,
        taken: Taken,
        prefix: str,
        start: str | None,
        stop: str | None,
    ) -> None:
        snapshot, state = self.here(taken[0]), taken[1]
        low, high = (None if bound is None else bound.encode() for bound in (start, stop))
        expected = [key.decode() for key, _ in model.scan(state, prefix.encode(), low, high)]
        view = snapshot.keys(prefix, start=start, stop=stop)
        assert list(view) == expected
        assert list(reversed(view)) == expected[::-1]
        assert len(view) == len(expected)

    @rule(pair=workspaces, prefix=st.just("") | keys, start=bounds, stop=bounds)
    def read_workspace_range(
        self,
        pair: Pair,
        prefix: str,
        start: str | None,
        stop: str | None,
    ) -> None:
        self.renew(pair)
        low, high = (None if bound is None else bound.encode() for bound in (start, stop))
        found = model.scan(pair.twin.state(), prefix.encode(), low, high)
        view = pair.real.items(prefix, start=start, stop=stop)
        assert list(view) == [(key.decode(), value) for key, (_, value) in found]
        assert len(view) == len(found)

    @rule(old=snapshots, new=snapshots)
    def diff(self, old: Taken, new: Taken) -> None:
        found = self.here(old[0]).diff(self.here(new[0]))
        changes = model.diff(old[1], new[1])
        assert found.added == tuple(key.decode() for key, before, _ in changes if before is None)
        assert found.removed == tuple(key.decode() for key, _, after in changes if after is None)
        assert found.changed == tuple(
            key.decode() for key, a, b in changes if a is not None and b is not None
        )

    @rule(target=snapshots, base=snapshots, ours=snapshots, theirs=snapshots)
    def merge(self, base: Taken, ours: Taken, theirs: Taken) -> Taken:
        sides = self.here(ours[0]), self.here(theirs[0]), self.here(base[0])
        try:
            state = model.merged(base[1], ours[1], theirs[1])
        except model.Conflict as conflict:
            with pytest.raises(helios_shm.ConflictError) as raised:
                sides[0].merge(sides[1], base=sides[2])
            assert raised.value.keys == tuple(key.decode() for key in conflict.keys)
            state = model.merged(base[1], base[1], theirs[1])
            sides = sides[2], sides[1], sides[2]
        found = sides[0].merge(sides[1], base=sides[2])
        self.agree(found, state)
        return found, state

    # --- what the store goes through ---

    @precondition(lambda self: self.generation < 4)
    @rule(sync=st.booleans())
    def reopen(self, sync: bool) -> None:
        self.engine.close(sync=sync)
        self.open()

    @rule(taken=snapshots)
    def read_what_has_left_l1(self, taken: Taken) -> None:
        ballast = random.Random(next(self.places))
        l1 = L1(self.engine._attachment)
        for _ in range(BALLAST_COUNT):
            l1.put(ballast.randbytes(BALLAST_BYTES))
        self.read_in_full(taken)

    @rule()
    def sync(self) -> None:
        self.engine.sync()

    @invariant()
    def branches_agree(self) -> None:
        assert self.engine.branches(self.place) == sorted(self.place + name for name in self.model.branches)
        for name, branch in self.handles.items():
            assert branch.head.id == model.root_id(self.model.head(name)).hex()


def test_store_and_twin_agree_after_every_step(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So small that nodes leave the process's own cache as well.
    monkeypatch.setattr(config, "CACHE_BYTES", 16 << 10)
    # One store for all runs, each with branches of its own: a store's coordinator takes longer to start than a run.
    StoreMachine.path = store_path
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
