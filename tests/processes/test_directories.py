"""Directories while something happens: kills, Ctrl-C, a swapped directory, a full disk; and a whole source tree."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

import helios_shm
from helios_shm import BusyError, CapacityError, Engine, ExistsError, Snapshot, materialize
from tests.programs import untraced
from tests.trees import Tree, entries_of, plant, state, tree_of

# Opens a store, materializes a state, and says so after each slice.
PROGRAM = """
import sys, helios_shm
store, root, place = sys.argv[1:]
with helios_shm.open(store) as engine:
    print("ready", flush=True)
    engine.snapshot(root).materialize(place, progress=lambda done, total: print(done, flush=True))
print("done", flush=True)
"""


def files(count: int, seed: int) -> Tree:
    return {
        f"d{number % (7 + seed)}/f{number}": ("file", b"%d %d " % (seed, number) * 40)
        for number in range(count)
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def committed(engine: Engine, tree: Tree) -> Snapshot:
    """On disk, so that another process has it whatever becomes of this one."""
    snapshot = state(engine, tree)
    engine.branch(f"b{len(engine.branches())}", at=snapshot)
    return snapshot


@contextlib.contextmanager
def started(engine: Engine, snapshot: Snapshot, place: Path) -> Iterator["subprocess.Popen[str]"]:
    words = [sys.executable, "-c", PROGRAM, str(engine.path), snapshot.id, str(place)]
    child = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=untraced(), cwd="/"
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def lines_read(child: "subprocess.Popen[str]", count: int) -> None:
    assert child.stdout is not None
    for _ in range(count):
        assert child.stdout.readline()


def killed_after(engine: Engine, snapshot: Snapshot, place: Path, slices: int) -> None:
    with started(engine, snapshot, place) as child:
        lines_read(child, 1 + slices)
        child.send_signal(signal.SIGKILL)
        child.wait()


@pytest.mark.parametrize("slices", [0, 1, 2])
@pytest.mark.parametrize("just_written", [False, True])
@pytest.mark.parametrize("kills", [1, 2])
def test_killed_half_way_it_ends_right(
    engine: Engine, place: Path, monkeypatch: pytest.MonkeyPatch, slices: int, just_written: bool, kills: int
) -> None:
    first, second = committed(engine, files(1100, 1)), committed(engine, files(1100, 2))
    with monkeypatch.context() as patched:
        if just_written:  # within a tick of the file system's clock: of no stat is one sure later
            patched.setattr(materialize, "now_ns", lambda: 0)
        first.materialize(place)
    killed_after(engine, second, place, slices)
    if kills == 2:
        killed_after(engine, committed(engine, files(1100, 3)), place, slices)
    if slices == 1:  # to another state: what all wrote is known, and nothing of it stays
        third = state(engine, {"d1/x": ("file", b"3")})
        third.materialize(place)
        assert tree_of(place) == entries_of(third)
    second.materialize(place)
    assert tree_of(place) == entries_of(second)


def test_interrupted_it_ends_at_once_and_can_be_run_again(engine: Engine, place: Path) -> None:
    snapshot = committed(engine, files(2000, 1))
    with started(engine, snapshot, place) as child:
        lines_read(child, 2)
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate()
    assert "KeyboardInterrupt" in errors
    assert "done" not in output
    snapshot.materialize(place)
    assert tree_of(place) == entries_of(snapshot)


SWAPPER = """
import os, sys
directory, outside = sys.argv[1:]
print("ready", flush=True)
while True:
    try:
        os.rename(directory, directory + ".away")
        os.symlink(outside, directory)
        os.unlink(directory)
        os.rename(directory + ".away", directory)
    except OSError:
        pass
"""


@pytest.mark.parametrize("clean", [False, True])
def test_directory_swapped_for_a_link_leads_nowhere(
    engine: Engine, place: Path, tmp_path: Path, clean: bool
) -> None:
    outside = plant(tmp_path / "outside", {"f1": ("file", b"precious"), "sub/f2": ("file", b"precious")})
    before = tree_of(outside)
    states = [
        state(engine, {f"d/f{number}": ("file", b"%d" % seed) for number in range(seed, 60 + seed)})
        for seed in (0, 3)
    ]
    states[0].materialize(place)
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(place / "d"), str(outside)],
        stdout=subprocess.PIPE,
        env=untraced(),
    ) as swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        for number in range(30):
            with contextlib.suppress(BusyError, ExistsError, FileNotFoundError):
                states[number % 2].materialize(place, clean=clean)
        swapper.kill()
    assert tree_of(outside) == before
    states[0].materialize(place, clean=True)
    assert tree_of(place) == entries_of(states[0])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_is_named_and_it_can_be_run_again(engine: Engine, small_disk: Path) -> None:
    tree: Tree = {f"f{number}": ("file", os.urandom(40 << 10)) for number in range(10)}
    with pytest.raises(CapacityError, match=r"No space left.*run it again"):
        state(engine, tree).materialize(small_disk)
    assert all(os.stat(path).st_size == 40 << 10 for path in small_disk.iterdir())  # nothing half written
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    metrics = state(engine, tree).materialize(small_disk)
    assert tree_of(small_disk) == tree
    assert metrics.written < 10


def test_two_at_once_leave_one_of_both(engine: Engine, place: Path) -> None:
    states = [state(engine, files(300, seed)) for seed in (1, 2)]
    threads = [
        threading.Thread(target=lambda which=which: [which.materialize(place) for _ in range(3)])  # type: ignore[misc]
        for which in states
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree_of(place) in [entries_of(each) for each in states]
    states[0].materialize(place)
    assert tree_of(place) == entries_of(states[0])


# --- a whole source tree ---


def edited(start: Snapshot, names: list[str], number: int) -> Snapshot:
    """One of a hundred forks: a file of its own changed, one removed, one added."""
    ws = start.fork()
    ws[names[2 * number]] += b"# %d\n" % number
    del ws[names[2 * number + 1]]
    ws[f"added/{number}.txt"] = b"%d" % number
    return ws.commit(f"fork {number}").snapshot


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_standard_library_is_ingested_forked_merged_and_materialized(engine: Engine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    library = Path(os.__file__).parent
    shutil.copytree(
        library, source, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "site-packages")
    )
    branch = engine.branch("main")
    with branch.transaction("import") as ws:
        ws.ingest(library, exclude=["__pycache__/", "site-packages/"])
    start = branch.head
    expected = tree_of(source)
    assert len(expected) > 1000
    assert entries_of(start) == expected
    names = sorted(path for path, (kind, _) in expected.items() if kind == "file")[:200]
    with ProcessPoolExecutor(8, mp_context=get_context("forkserver")) as pool:
        forks = list(pool.map(partial(edited, start, names), range(100)))
    for number, fork in enumerate(forks):
        branch.merge(fork, base=start, message=f"merge {number}")
        expected[names[2 * number]] = ("file", expected[names[2 * number]][1] + b"# %d\n" % number)
        del expected[names[2 * number + 1]]
        expected[f"added/{number}.txt"] = ("file", b"%d" % number)
    out = tmp_path / "out"
    start.materialize(out)
    metrics = branch.head.materialize(out)
    assert (metrics.written, metrics.removed) == (200, 100)
    found = tree_of(out)
    assert {path: entry for path, entry in found.items() if entry[0] != "directory"} == {
        path: entry for path, entry in expected.items() if entry[0] != "directory"
    }
    with branch.transaction("back") as ws:
        assert ws.ingest(out).changed == 0
    assert engine.check().ok


def test_forked_child_goes_on_where_it_was(store_path: Path, place: Path) -> None:
    with helios_shm.open(store_path) as engine:
        snapshot = committed(engine, files(50, 1))
        pid = os.fork()
        if pid == 0:
            try:
                snapshot.materialize(place)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert snapshot.materialize(place).written == 0
        assert tree_of(place) == entries_of(snapshot)
