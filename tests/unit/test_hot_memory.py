"""What csrc/python holds and lets go of: references, memory, cycles; and what it says to those who misuse it."""

import gc
import os
import signal
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import coverage
import pytest

import helios_shm
from helios_shm import Branch, Engine, Snapshot, Workspace
from helios_shm._capi import hot
from helios_shm.l1 import L1

OPERATIONS = 100_000
# What may come and go beside the operations: tables that grow, lists that are cut now and then.
BLOCKS_MAX = 2000
BYTES_MAX = 256 << 10

Step = Callable[[int], object]


@pytest.fixture
def branch(engine: Engine) -> Branch:
    """A branch whose head has a hundred keys, small and large."""
    branch = engine.branch("main")
    workspace = branch.fork()
    workspace.update(
        (f"k/{number:03}", bytes([number]) * (48 if number % 2 else 1024)) for number in range(100)
    )
    workspace.commit()
    return branch


# --- nothing is kept ---


def commit_small(branch: Branch) -> Step:
    workspace = branch.fork()

    def step(number: int) -> object:
        workspace["k/001"] = number.to_bytes(48, "little")
        return workspace.commit()

    return step


def commit_detached(branch: Branch) -> Step:
    snapshot = branch.head

    def step(number: int) -> object:
        workspace = snapshot.fork()
        workspace["k/000"] = number.to_bytes(8, "little")
        return workspace.commit().snapshot["k/000"]

    return step


def commit_several(branch: Branch) -> Step:
    workspace = branch.fork()

    def step(number: int) -> object:
        workspace["k/001"] = workspace["k/002"] = number.to_bytes(48, "little")
        return workspace.commit()

    return step


def read_first(branch: Branch) -> Step:
    id = branch.head.id
    engine = branch.engine

    def step(number: int) -> object:
        snapshot = engine.snapshot(id)
        with suppress(KeyError):
            snapshot["absent"]
        return snapshot["k/000"], snapshot["k/001"], "k/002" in snapshot, "absent" in snapshot

    return step


def read_again(branch: Branch) -> Step:
    snapshot = branch.head
    return lambda number: snapshot["k/000"]


def scan(branch: Branch) -> Step:
    snapshot = branch.head

    def step(number: int) -> object:
        next(iter(snapshot.items()))  # a walk that is given up
        return list(snapshot.items("k/00")), list(reversed(snapshot.keys("k/00")))

    return step


def misuse(branch: Branch) -> Step:
    snapshot, workspace = branch.head, branch.fork()

    def step(number: int) -> object:
        for wrong in (
            lambda: snapshot[number],
            lambda: workspace.put("k", number),
            lambda: workspace.commit(number),
        ):
            with pytest.raises(TypeError):
                wrong()
        return None

    return step


def l1(branch: Branch) -> Step:
    ring = L1(branch._attachment)
    return lambda number: ring.get(ring.put(number.to_bytes(64, "little")))


@pytest.mark.parametrize(
    ("prepare", "times"),
    [
        (commit_small, OPERATIONS),
        (commit_detached, OPERATIONS // 4),
        (commit_several, OPERATIONS // 4),
        (read_first, OPERATIONS // 10),
        (read_again, OPERATIONS),
        (scan, OPERATIONS // 20),
        (misuse, OPERATIONS // 50),
        (l1, OPERATIONS),
    ],
    ids=lambda given: given.__name__ if callable(given) else "",
)
def test_many_operations_leave_no_memory_and_no_references(
    branch: Branch, prepare: Callable[[Branch], Step], times: int
) -> None:
    step = prepare(branch)
    held = [branch, branch._attachment, branch.name, branch.head, None, b"", *TYPES]
    for number in range(times // 10):
        step(number)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        references, blocks = list(map(sys.getrefcount, held)), sys.getallocatedblocks()
        for number in range(times, 2 * times):
            step(number)
        gc.collect()
        blocks = sys.getallocatedblocks() - blocks
        grown = [after - was for after, was in zip(map(sys.getrefcount, held), references, strict=True)]
        bytes_grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert abs(blocks) < min(BLOCKS_MAX, times)
    assert bytes_grown < BYTES_MAX
    # One for each operation would be far more; weak references and the snapshots that are dropped last come and go.
    assert max(map(abs, grown)) < times // 20, dict(zip(map(repr, held), grown, strict=True))


TYPES = (helios_shm.Snapshot, helios_shm.Workspace, helios_shm.Commit, hot.SnapshotBase, hot.WorkspaceBase)


# --- cycles ---


class Holder(hot.AttachmentBase):
    """Something that may be part of a cycle, and that can be watched."""

    end: Any


def cycle_through_snapshot(branch: Branch, holder: Any) -> None:
    snapshot = branch.head
    snapshot._read["k"] = holder
    holder.end = snapshot


def cycle_through_workspace(branch: Branch, holder: Any) -> None:
    workspace = branch.fork()
    workspace._edits["k"] = holder
    holder.end = workspace


def cycle_through_base(branch: Branch, holder: Any) -> None:
    workspace = branch.head.fork()
    workspace.base._read["k"] = holder
    holder.end = workspace


def cycle_through_commit(branch: Branch, holder: Any) -> None:
    holder.end = hot.make_commit(b"record", holder)


def cycle_through_scan(branch: Branch, holder: Any) -> None:
    snapshot = branch.head
    snapshot._read["k"] = holder
    holder.end = iter(snapshot.items())
    next(holder.end)


def cycle_through_l1(branch: Branch, holder: Any) -> None:
    holder.end = L1(holder)


@pytest.mark.parametrize(
    "tie",
    [
        cycle_through_snapshot,
        cycle_through_workspace,
        cycle_through_base,
        cycle_through_commit,
        cycle_through_scan,
        cycle_through_l1,
    ],
)
def test_cycles_are_collected(branch: Branch, tie: Callable[[Branch, Any], None]) -> None:
    gc.collect()
    gc.disable()
    try:
        holder = Holder()
        watched = weakref.ref(holder)
        tie(branch, holder)
        del holder
        assert watched() is not None  # a cycle it is
        gc.collect()
        assert watched() is None
    finally:
        gc.enable()
    assert branch.head["k/001"] == b"\1" * 48


def test_closed_engine_and_all_that_came_from_it_can_go(store_path: os.PathLike[str]) -> None:
    engine = helios_shm.open(store_path)
    workspace = engine.branch("main").fork()
    workspace["k"] = b"v"
    commit = workspace.commit()
    snapshot = commit.snapshot
    assert snapshot["k"] == b"v"
    watched = [weakref.ref(each) for each in (engine, engine._attachment, workspace, snapshot)]
    engine.close()
    del engine, workspace, commit, snapshot
    gc.collect()
    assert [reference() for reference in watched] == [None] * 4


def test_weak_references_say_when_what_they_name_goes(branch: Branch) -> None:
    gone: list[str] = []
    workspace, snapshot = branch.fork(), branch.head
    kept = [
        weakref.ref(workspace, lambda _: gone.append("workspace")),
        weakref.ref(snapshot, lambda _: gone.append("snapshot")),
    ]
    workspace["k"] = b"v"
    workspace.commit()
    assert [reference() for reference in kept] == [workspace, snapshot] and gone == []
    del workspace
    assert gone == ["workspace"]
    del snapshot
    assert gone == ["workspace", "snapshot"]


def test_weak_reference_may_use_the_store_while_a_commit_lets_its_base_go(branch: Branch) -> None:
    workspace = branch.fork()
    seen: list[bytes] = []
    for number in range(20):
        base = workspace.base
        reference = weakref.ref(base, lambda _: seen.append(branch.head["k/003"]))
        del base
        workspace["k/001"] = bytes([number])
        workspace.commit()
        assert reference() is None
    assert seen == [b"\3" * 48] * 20


# --- misuse ---


def test_objects_that_were_never_filled_have_nothing(branch: Branch) -> None:
    class OfWorkspace(Workspace):
        pass

    class OfBase(hot.WorkspaceBase):
        pass

    for made in (
        Workspace.__new__(Workspace),
        OfWorkspace.__new__(OfWorkspace),
        OfBase(),
        hot.WorkspaceBase(),
    ):
        uses: list[Callable[[Any], object]] = [
            lambda it: it["k"],
            lambda it: it.__setitem__("k", b"v"),
            lambda it: it.__delitem__("k"),
            lambda it: it.commit(),
            lambda it: it.commit("message"),
            lambda it: it._edits,
        ]
        for use in uses:
            with pytest.raises((AttributeError, TypeError)):
                use(made)
        assert made._base == b""
    for use in (lambda it: it._record, lambda it: it._attachment, lambda it: it.snapshot):
        with pytest.raises(AttributeError):
            use(helios_shm.Commit.__new__(helios_shm.Commit))


def test_subclass_cannot_be_made_but_by_the_library_and_overrides_nothing_there(branch: Branch) -> None:
    class Louder(Workspace):
        __slots__ = ("more",)

        def __getitem__(self, path: str, /) -> bytes:
            return super().__getitem__(path).upper()

    with pytest.raises(TypeError, match="workspaces come from"):
        Louder()
    assert type(branch.fork()) is type(branch.head.fork()) is type(branch.fork().fork()) is Workspace
    loud: Any = Louder.__new__(Louder)
    plain = branch.fork()
    for field in ("_attachment", "_branch", "_base", "_base_snapshot", "_edits"):
        setattr(loud, field, getattr(plain, field))
    loud["k/001"] = b"loud"
    assert loud["k/001"] == b"LOUD"
    assert loud.commit().snapshot["k/001"] == b"loud"


@pytest.mark.parametrize(
    "wrong", [1, None, b"k", ("k",), 1.5, object()], ids=lambda each: type(each).__name__
)
def test_path_of_another_type_is_refused(branch: Branch, wrong: Any) -> None:
    workspace = branch.fork()
    for use in (
        lambda: branch.head[wrong],
        lambda: workspace.__setitem__(wrong, b"v"),
    ):
        with pytest.raises(TypeError):
            use()
    with pytest.raises((TypeError, KeyError)):
        workspace[wrong]
    with pytest.raises((TypeError, KeyError)):
        del workspace[wrong]
    assert wrong not in branch.head
    assert dict(workspace.edits) == {}


@pytest.mark.parametrize("wrong", ["text", 1, None, [b"v"], {b"v"}], ids=repr)
def test_value_of_another_type_is_refused_and_changes_nothing(branch: Branch, wrong: Any) -> None:
    workspace = branch.fork()
    workspace["k"] = b"before"
    with pytest.raises(TypeError):
        workspace["k"] = wrong
    assert workspace["k"] == b"before" and dict(workspace.edits) == {"k": b"before"}


@pytest.mark.parametrize(
    ("positional", "named"),
    [
        ((1,), {}),
        (("a", "b"), {}),
        ((), {"unknown": 1}),
        ((), {"metadata": 1}),
        ((), {"message": 1}),
        ((b"",), {}),
    ],
)
def test_commit_with_other_arguments_is_refused_and_keeps_the_edits(
    branch: Branch, positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    workspace = branch.fork()
    workspace["k"] = b"v"
    head = branch.head
    with pytest.raises((TypeError, ValueError, AttributeError)):
        workspace.commit(*positional, **named)
    assert dict(workspace.edits) == {"k": b"v"} and branch.head == head
    assert workspace.commit().snapshot["k"] == b"v"


@pytest.mark.parametrize("wrong", [None, 1, "text", bytes(41), bytearray(32)], ids=repr)
def test_base_of_another_form_is_refused(branch: Branch, wrong: Any) -> None:
    workspace = branch.fork()
    before = workspace._base
    with pytest.raises(TypeError):
        workspace._base = wrong
    with pytest.raises(TypeError):
        del workspace._base
    assert workspace._base == before


@pytest.mark.parametrize(
    "call",
    [
        lambda: hot.make_commit(),
        lambda: hot.make_commit(1, 2),
        lambda: hot.make_commit(bytearray(), None),
        lambda: hot.bind(),
        lambda: hot.bind(commit=int, workspace=int, large=1, read_size_max=1, read_count_max=1),
        lambda: hot.Edits(),
        lambda: hot.Edits([], None),
        lambda: hot.Edits({1: b""}, None),
        lambda: hot.Edits({"k": None}, None),
        lambda: hot.Edits({"k": None}, lambda _: None),
        lambda: hot.Edits({"k": None}, lambda _: (0, "text")),
    ],
)
def test_module_refuses_arguments_of_other_types(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


def test_l1_takes_bytes_alone(branch: Branch) -> None:
    ring = L1(branch._attachment)
    for wrong in (1, None, "text"):
        with pytest.raises((TypeError, ValueError)):
            ring.put(wrong)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError)):
            ring.get(wrong)  # type: ignore[arg-type]


# --- threads, forks, Ctrl-C ---


@pytest.fixture
def swift() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def hammer(workspace: Workspace, branch: Branch, name: str, times: int) -> None:
    """Sets, reads, commits, whatever others do to the same workspace meanwhile."""
    for number in range(times):
        value = f"{name}{number}".encode()
        workspace[f"t/{name}"] = value
        assert workspace[f"t/{name}"][:1] == value[:1]
        with suppress(helios_shm.ConflictError, helios_shm.BusyError):
            commit = workspace.commit()
            assert commit.snapshot["k/001"] == b"\1" * 48
        if number % 16 == 0:
            workspace.fork().discard()
            branch.head.fork()


@pytest.mark.usefixtures("swift")
def test_threads_hammer_one_workspace(branch: Branch) -> None:
    workspace = branch.fork()
    failures: list[BaseException] = []

    def run(name: str) -> None:
        try:
            hammer(workspace, branch, name, 500)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    workspace["t/last"] = b"v"
    head = workspace.commit().snapshot
    assert {f"t/{name}" for name in "abcd"} | {"t/last"} <= set(head)
    assert branch.engine.check().ok


@pytest.fixture
def untraced() -> Iterator[None]:
    """Coverage's tracer holds a lock of its own now and then: an exception out of it, or a fork beside it, would leave
    that locked."""
    tracer = coverage.Coverage.current()
    if tracer is not None:
        tracer.stop()
    yield
    if tracer is not None:
        tracer.start()


@pytest.mark.usefixtures("swift", "untraced")
def test_fork_in_the_middle_of_commits(branch: Branch) -> None:
    workspace = branch.fork()
    done = threading.Event()

    def run() -> None:
        number = 0
        while not done.is_set():
            workspace["t/parent"] = str(number := number + 1).encode()
            with suppress(helios_shm.ConflictError, helios_shm.BusyError):
                workspace.commit()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for number in range(10):
            if (pid := os.fork()) == 0:
                status = 1
                try:
                    mine = branch.fork()
                    mine[f"t/child{number}"] = b"v"
                    status = 0 if mine.commit().snapshot["k/001"] == b"\1" * 48 else 2
                finally:
                    os._exit(status)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        done.set()
        thread.join()
    assert {f"t/child{number}" for number in range(10)} <= set(branch.head)


@pytest.mark.usefixtures("untraced")
def test_ctrl_c_in_the_middle_leaves_every_call_in_the_pool(branch: Branch) -> None:
    workspace = branch.fork()
    attachment = branch._attachment
    interrupts = number = 0
    timer = signal.setitimer(signal.ITIMER_REAL, 0)  # another's, for the test as a whole
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    callbacks, gc.callbacks[:] = gc.callbacks[:], []  # others', in which an interrupt would be swallowed
    try:
        while interrupts < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                for _ in range(10_000):
                    number += 1
                    workspace["k/005"] = number.to_bytes(8, "little")
                    workspace.commit()
                    workspace.base["k/005"]
            except KeyboardInterrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.callbacks[:] = callbacks
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert len(attachment.pool) == len(attachment._calls)
    workspace["k/005"] = b"last"
    assert workspace.commit().snapshot["k/005"] == branch.head["k/005"] == b"last"


@pytest.mark.parametrize("wrong", [3, None, "main", object()])
def test_fields_that_c_relies_on_take_their_type_alone(branch: Branch, wrong: Any) -> None:
    workspace, snapshot, l1 = branch.fork(), branch.head, L1(branch._attachment)
    for owner in (workspace, snapshot, l1):
        with pytest.raises(TypeError):
            owner._attachment = wrong
    if wrong is not None:  # a detached workspace has no branch
        with pytest.raises(TypeError):
            workspace._branch = wrong
    with pytest.raises(TypeError):
        hot.make_commit(b"r" * 200, wrong)
    workspace["k"] = b"still works"
    assert workspace.commit().snapshot["k"] == b"still works"


def test_fields_that_were_never_set_are_absent() -> None:
    for kind in (Workspace, Snapshot, L1):
        with pytest.raises(AttributeError):
            _ = kind.__new__(kind)._attachment
