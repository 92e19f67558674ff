"""Watching a branch: the newest is never missed, what is no news is not told, who stops waiting leaves nothing."""

import asyncio
import contextlib
import gc
import pickle
import threading
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm import Branch, ClosedError, Commit, Engine, Watch
from helios_shm import watch as watching
from tests.processes.rig import until

SECONDS_MAX = 60.0


@pytest.fixture
def branch(engine: Engine) -> Branch:
    return engine.branch("main")


def put(branch: Branch, key: str = "k", value: bytes | None = b"v") -> Commit:
    ws = branch.fork()
    if value is None:
        ws.pop(key, None)
    else:
        ws[key] = value
    return ws.commit("put")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, SECONDS_MAX))


async def begun(watch: Watch) -> asyncio.Task[Commit]:
    """A task that awaits the next commit, and has looked for one."""
    task = asyncio.create_task(watch.__anext__())  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def dropped(task: asyncio.Task[Commit]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def news(watch: Watch) -> Commit | None:
    """The next commit, if there is one now."""
    task = await begun(watch)
    if task.done():
        return await task
    await dropped(task)
    return None


def threads(*engines: Engine) -> list[threading.Thread]:
    """Those that watch these stores. (Of another test's store one may be about to end.)"""
    names = {f"helios_shm watcher of {engine.path}" for engine in engines}
    return [thread for thread in threading.enumerate() if thread.name in names]


# --- for ---


def test_each_commit_is_given_out_and_those_that_came_meanwhile_coalesce(branch: Branch) -> None:
    with branch.watch() as watch:
        first = put(branch, "a")
        assert next(watch) == first
        put(branch, "b")
        newest = put(branch, "c")
        assert next(watch) == newest
        assert iter(watch) is watch


def test_watch_begins_after_now_or_after_a_sequence(branch: Branch) -> None:
    before = branch.watch()
    commits = [put(branch, f"{n}") for n in range(3)]
    assert next(before) == commits[-1]
    for after in range(3):
        assert next(branch.watch(after=after)) == commits[-1]
    for later in (branch.watch(), branch.watch(after=3), branch.watch(after=4)):
        assert run(news(later)) is None
    ahead = branch.watch(after=4)
    put(branch, "3")
    assert run(news(ahead)) is None
    fifth = put(branch, "4")
    assert next(ahead) == fifth


def test_commits_of_a_thread_are_given_out_as_they_come(branch: Branch) -> None:
    seen: list[int] = []

    def commit() -> None:
        for n in range(20):
            sequence = put(branch.engine.branch("main"), "n", b"%d" % n).sequence
            until(f"commit {sequence} was seen", lambda wanted=sequence: seen and seen[-1] >= wanted)

    thread = threading.Thread(target=commit)
    watch = branch.watch()
    thread.start()
    for found in watch:
        assert found.sequence is not None
        seen.append(found.sequence)
        if found.sequence == 20:
            break
    thread.join()
    assert seen == list(range(1, 21))


def test_of_several_who_ask_one_gets_a_commit(branch: Branch) -> None:
    """Each commit goes to one thread; the others wait for the next, and are let go at the end."""
    watch, taken, count = branch.watch(), [], 30

    def take() -> None:
        for commit in watch:
            taken.append(commit.sequence)

    takers = [threading.Thread(target=take) for _ in range(3)]
    for thread in takers:
        thread.start()
    for n in range(count):
        put(branch, "n", b"%d" % n)
        until("somebody took it", lambda wanted=n: len(taken) > wanted)
    watch.close()
    for thread in takers:
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()
    assert sorted(taken) == list(range(1, count + 1))


# --- prefixes ---


def test_prefix_passes_over_what_changes_elsewhere(branch: Branch) -> None:
    put(branch, "in/a")
    watch = branch.watch("in/")
    put(branch, "out/a")
    assert run(news(watch)) is None
    put(branch, "in", b"beside it")
    assert run(news(watch)) is None
    changed = put(branch, "in/a", b"changed")
    assert next(watch) == changed
    put(branch, "in/a", b"and again")
    put(branch, "in/a", b"changed")
    assert run(news(watch)) is None  # it is what was last given out
    removed = put(branch, "in/a", None)
    put(branch, "out/b")
    assert next(watch).snapshot == branch.head and removed.sequence == 7


@pytest.mark.parametrize("after", [0, 1, 2])
def test_prefix_after_a_sequence_compares_with_the_state_of_then(branch: Branch, after: int) -> None:
    put(branch, "in/a", b"1")
    put(branch, "in/a", b"2")
    put(branch, "out/a", b"1")
    assert (run(news(branch.watch("in/", after=after))) is not None) == (after < 2)
    assert (run(news(branch.watch("out/", after=after))) is not None) is True
    assert run(news(branch.watch("nowhere/", after=after))) is None


OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["in/a", "in/b", "out/a"]), st.sampled_from([b"1", b"2", None])),
    st.sampled_from(["empty commit", "restore", "delete", "ask", "ask", "ask"]),
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Engine]:
    with helios_shm.open(None, l1_bytes=4 << 20) as engine:
        yield engine


@given(operations=st.lists(OPERATIONS, max_size=30))
@settings(max_examples=40)
def test_prefix_tells_what_differs_from_what_was_told(shared: Engine, operations: list[Any]) -> None:
    """Beside a model: asked at any moment, the watch has news if and only if the branch has a commit after the last
    one told whose content below the prefix is another than what was told."""
    branch = shared.branch(uuid.uuid4().hex)
    watch, everything, first = branch.watch("in/"), branch.watch(), shared.empty
    told: dict[str, bytes] = {}
    exists = fresh = False
    with asyncio.Runner() as runner:
        for operation in operations:
            if operation == "ask":
                content = dict(branch.head.items("in/"))
                found = runner.run(news(watch))
                assert (found is not None) == (exists and content != told)
                told = told if found is None else content
                assert (runner.run(news(everything)) is not None) == (exists and fresh)
                fresh = fresh and not exists
            elif operation == "delete":
                if exists:
                    branch.delete()
                exists = fresh = False
            else:
                if operation == "empty commit":
                    branch.fork().commit("nothing changed")
                elif operation == "restore":
                    branch.restore(first)
                else:
                    put(branch, *operation)
                exists = fresh = True


# --- async for ---


def test_event_loop_runs_on_while_a_watch_waits(branch: Branch) -> None:
    async def main() -> list[int | None]:
        seen: list[int | None] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(follow(branch.watch(), seen))
            for n in range(10):
                put(branch, "n", b"%d" % n)
                while not seen or seen[-1] != n + 1:
                    await asyncio.sleep(0.001)
        return seen

    async def follow(watching: Watch, seen: list[int | None]) -> None:
        with watching as watch:
            async for commit in watch:
                seen.append(commit.sequence)
                if commit.sequence == 10:
                    return

    assert run(main()) == list(range(1, 11))


def test_commit_that_came_before_the_wait_is_given_at_once(branch: Branch) -> None:
    async def main() -> None:
        watch = branch.watch()
        commit = put(branch)
        task = await begun(watch)
        assert task.done()
        assert await task == commit

    run(main())


def test_thousand_watches_share_one_thread_which_ends_with_the_last(branch: Branch) -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        names = ["main", "other"]
        watches = [branch.engine.branch(names[n % 2]).watch("" if n % 3 else "k") for n in range(1000)]
        tasks = [await begun(watch) for watch in watches]
        [thread] = set(threading.enumerate()) - before
        assert threads(branch.engine) == [thread]
        commits = {name: put(branch.engine.branch(name)) for name in names}
        for number, commit in enumerate(await asyncio.gather(*tasks)):
            assert commit == commits[names[number % 2]]
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()
        assert threads(branch.engine) == []
        task = await begun(watches[0])  # and it begins anew
        assert len(threads(branch.engine)) == 1
        last = put(branch, "k", b"again")
        assert await task == last

    run(main())


def test_stores_are_watched_side_by_side(engine: Engine, tmp_path: Path) -> None:
    async def main(other: Engine) -> None:
        branches = [engine.branch("main"), other.branch("main")]
        tasks = [await begun(branch.watch()) for branch in branches]
        assert len(threads(engine, other)) == 2
        for branch, task in zip(branches, tasks, strict=True):
            commit = put(branch)
            assert await task == commit

    with helios_shm.open(tmp_path / "other", l1_bytes=4 << 20) as other:
        run(main(other))


def test_cancelled_wait_loses_nothing(branch: Branch) -> None:
    async def main() -> None:
        watch = branch.watch()
        for n in range(50):
            task = await begun(watch)
            commit = put(branch, "k", b"%d" % n)
            for _ in range(n % 5):
                await asyncio.sleep(0)
            if n % 2:
                await asyncio.sleep(0.001)
            if not task.done():
                await dropped(task)
            else:
                assert await task == commit
                continue
            if not task.cancelled():
                continue
            assert await watch.__anext__() == commit

    run(main())


def test_timeout_around_a_wait_leaves_the_watch_as_it_was(branch: Branch) -> None:
    async def main() -> None:
        watch = branch.watch()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.__anext__(), 0.01)
        assert watch._waits == set()
        assert watching._watcher_of(branch._attachment)._waits == set()
        commit = put(branch)
        assert await watch.__anext__() == commit

    run(main())


def test_two_loops_in_two_threads_are_both_told(branch: Branch) -> None:
    told: list[Commit] = []
    ready = threading.Barrier(3)

    async def follow() -> None:
        task = await begun(branch.watch())
        ready.wait(SECONDS_MAX)
        told.append(await task)

    both = [threading.Thread(target=run, args=(follow(),)) for _ in range(2)]
    for thread in both:
        thread.start()
    ready.wait(SECONDS_MAX)
    commit = put(branch)
    for thread in both:
        thread.join(SECONDS_MAX)
    assert told == [commit, commit]


def test_loop_that_was_closed_with_waits_in_it_is_forgotten(branch: Branch) -> None:
    loop, watch = asyncio.new_event_loop(), branch.watch()
    task = loop.create_task(watch.__anext__())  # type: ignore[arg-type]
    loop.run_until_complete(asyncio.sleep(0))
    watcher = watching._watcher_of(branch._attachment)
    assert len(watcher._waits) == 1
    loop.close()
    commit = put(branch)
    until("the wait is gone", lambda: not watcher._waits)
    assert run(news(watch)) == commit
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()


# --- ends ---


def test_close_lets_go_whoever_waits(branch: Branch) -> None:
    async def main() -> None:
        watch = branch.watch()
        tasks = [await begun(watch) for _ in range(3)]
        closer = threading.Thread(target=watch.close)
        closer.start()
        for task in tasks:
            with pytest.raises(StopAsyncIteration):
                await task
        closer.join()
        with pytest.raises(StopAsyncIteration):
            await watch.__anext__()
        put(branch)
        assert [commit async for commit in watch] == []
        assert list(watch) == []
        watch.close()

    run(main())


def test_close_lets_go_a_thread_that_waits(branch: Branch) -> None:
    with branch.watch() as watch:
        thread = threading.Thread(target=lambda: list(watch))
        thread.start()
    thread.join(SECONDS_MAX)
    assert not thread.is_alive()
    assert "closed" in repr(watch)


def test_engine_that_is_closed_ends_waits_with_an_error(store_path: Path) -> None:
    engine = helios_shm.open(store_path)
    branch = engine.branch("main")
    caught: list[BaseException] = []

    def follow() -> None:
        try:
            next(branch.watch())
        except ClosedError as error:
            caught.append(error)

    async def main() -> None:
        watch = branch.watch()
        tasks = [await begun(watch) for _ in range(2)]
        await asyncio.to_thread(engine.close)
        for task in tasks:
            with pytest.raises(ClosedError, match="is closed"):
                await task
        with pytest.raises(ClosedError):
            await watch.__anext__()
        with pytest.raises(ClosedError):
            next(watch)

    thread = threading.Thread(target=follow)
    thread.start()
    run(main())
    thread.join(SECONDS_MAX)
    assert len(caught) == 1
    with pytest.raises(ClosedError):
        branch.watch()


def test_branch_that_is_made_anew_is_watched_on(branch: Branch) -> None:
    for n in range(5):
        put(branch, "k", b"%d" % n)
    watch, prefixed, ahead = branch.watch(), branch.watch("k"), branch.watch(after=9)
    branch.delete()
    assert [run(news(each)) for each in (watch, prefixed, ahead)] == [None] * 3
    again = put(branch, "k", b"anew")
    assert again.sequence == 1
    assert [next(each) for each in (watch, prefixed, ahead)] == [again] * 3
    branch.delete()
    watch, second = branch.watch(), branch.watch(after=1)
    first = put(branch, "k", b"third")
    assert next(watch) == first
    assert run(news(second)) is None
    after_it = put(branch, "l")
    assert next(second) == after_it


def test_what_comes_of_deleting_while_somebody_waits(branch: Branch) -> None:
    async def main() -> None:
        put(branch)
        task = await begun(branch.watch())
        branch.delete()
        await asyncio.sleep(0.01)
        assert not task.done()
        commit = put(branch)
        assert await task == commit

    run(main())


def test_read_only_engine_watches(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine, helios_shm.open(store_path, readonly=True) as reader:
        watch = reader.branch("main").watch()
        commit = put(engine.branch("main"))
        assert next(watch) == commit


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (TypeError, {"prefix": 1}),
        (TypeError, {"after": "1"}),
        (TypeError, {"after": True}),
        (ValueError, {"after": -1}),
        (ValueError, {"prefix": "\ud800"}),
    ],
)
def test_bad_arguments_are_refused(branch: Branch, error: type[Exception], arguments: dict[str, Any]) -> None:
    with pytest.raises(error):
        branch.watch(**arguments)
    with pytest.raises(TypeError):
        Watch()
    with pytest.raises(TypeError, match="hand over its branch"):
        pickle.dumps(branch.watch())
