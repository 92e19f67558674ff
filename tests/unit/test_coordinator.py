"""coordinator: the locator it keeps, the rounds it writes, and what it does when the disk says no."""

import os
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import helios_shm
from helios_shm import coordinator, l2, lifecycle
from helios_shm.coordinator import LocatorKeeper
from helios_shm.hashing import blake3
from helios_shm.store import StorePaths

WAIT_SECONDS_MAX = 40.0
OTHER_BOOT = bytes(range(16))


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


def coordinator_of(engine: helios_shm.Engine) -> psutil.Process:
    engine.sync()
    return psutil.Process(engine.stats().coordinator_pid)


# ---- the locator ----


def ids_of(pack: int, count: int) -> list[bytes]:
    return [blake3(b"%d/%d" % (pack, n)) for n in range(count)]


def table_of(ids: list[bytes]) -> bytes:
    """A pack as far as the locator looks at it."""
    rows = b"".join(id + bytes(24) for id in ids)
    return struct.pack("<QIIQQ", 0x314B43504F494C48, 1, len(ids), 0, 0) + rows


@pytest.fixture
def paths(store_path: Path) -> StorePaths:
    return lifecycle.open_store(store_path, create=True)


@pytest.fixture
def writer(paths: StorePaths) -> Iterator[l2.Writer]:
    writer = l2.Writer(paths, sync=False)
    writer.draw_epoch()
    yield writer
    writer.close()


def put(writer: l2.Writer, *, packs: int, rows: int) -> list[tuple[int, bytes]]:
    with writer.transaction() as batch:
        return [
            (batch.put_pack(table), table)
            for table in (table_of(ids_of(batch.next_pack, rows)) for _ in range(packs))
        ]


def knows(keeper: LocatorKeeper, packs: int, rows: int) -> bool:
    """Does the file under the name know every row of the packs 1 .. packs?"""
    named = l2.Locator.open(keeper._paths.locator, writable=False)
    assert named is not None and named.info().mark == packs
    return all(
        (pack, row) in named.find(id)
        for pack in range(1, packs + 1)
        for row, id in enumerate(ids_of(pack, rows))
    )


def test_a_missing_locator_is_built_from_the_packs(paths: StorePaths, writer: l2.Writer) -> None:
    put(writer, packs=3, rows=10)
    assert knows(LocatorKeeper(paths, writer, durable=True), 3, 10)


def test_packs_above_the_mark_are_entered(paths: StorePaths, writer: l2.Writer) -> None:
    """A coordinator died between its transaction and the locator."""
    put(writer, packs=2, rows=10)
    LocatorKeeper(paths, writer, durable=True)
    put(writer, packs=2, rows=10)
    assert knows(LocatorKeeper(paths, writer, durable=True), 4, 10)


def test_after_a_reboot_what_was_not_synced_is_entered_again(paths: StorePaths, writer: l2.Writer) -> None:
    put(writer, packs=4, rows=10)
    table = l2.Locator.create(paths.locator, 4096, OTHER_BOOT)
    for number, pack in writer.packs_between(0, 2):
        table.insert(number, pack)
    table.mark(2, OTHER_BOOT)
    table.checkpoint()
    table.mark(4, OTHER_BOOT)
    keeper = LocatorKeeper(paths, writer, durable=True)
    assert knows(keeper, 4, 10) and keeper.table.info().boot_id == l2.boot_id()


def test_a_mark_beyond_the_packs_is_not_believed(paths: StorePaths, writer: l2.Writer) -> None:
    put(writer, packs=2, rows=10)
    l2.Locator.create(paths.locator, 4096, l2.boot_id()).mark(9, l2.boot_id())
    assert knows(LocatorKeeper(paths, writer, durable=True), 2, 10)


def test_garbage_under_the_locators_name_is_replaced(paths: StorePaths, writer: l2.Writer) -> None:
    put(writer, packs=1, rows=10)
    paths.locator.write_bytes(os.urandom(10_000))
    assert knows(LocatorKeeper(paths, writer, durable=True), 1, 10)


@pytest.mark.parametrize("durable", [True, False])
def test_it_grows_a_step_at_a_time_while_packs_go_on_coming(
    paths: StorePaths, writer: l2.Writer, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    monkeypatch.setattr(LocatorKeeper, "CAPACITY_MIN", 1024)
    monkeypatch.setattr(LocatorKeeper, "STEP_SECONDS", 0.0)
    keeper = LocatorKeeper(paths, writer, durable=durable)
    steps = 0
    for packs in range(1, 31):
        keeper.add(put(writer, packs=1, rows=100), 100)
        steps += keeper.tend()
        assert knows(keeper, packs, 100)
    while keeper.tend():
        steps += 1
    assert steps > 0 and keeper.table.info().capacity >= 4096
    assert knows(keeper, 30, 100)
    assert not (paths.root / "locator.next").exists()


def test_a_burst_that_fills_it_grows_it_at_once(
    paths: StorePaths, writer: l2.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocatorKeeper, "CAPACITY_MIN", 1024)
    keeper = LocatorKeeper(paths, writer, durable=True)
    keeper.add(put(writer, packs=50, rows=100), 100)
    assert knows(keeper, 50, 100)


def test_what_was_entered_is_synced_now_and_then(
    paths: StorePaths, writer: l2.Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = LocatorKeeper(paths, writer, durable=True)
    keeper.add(put(writer, packs=1, rows=10), coordinator.CHECKPOINT_BYTES)
    assert keeper.table.info().checkpoint == 0
    keeper.tend()
    assert keeper.table.info().checkpoint == 1


# ---- rounds ----


def test_a_value_that_l2_has_is_not_stored_again(store_path: Path) -> None:
    """A new segment knows nothing of what is in L2, so writers append it once more."""
    value = os.urandom(5000)
    for n in range(3):
        with helios_shm.open(store_path) as engine:
            ws = engine.empty.fork()
            ws[f"{n}"] = value
            ws.commit()
        packs = packs_of(store_path)
        assert sum(value in pack for pack in packs) == 1 and len(packs) == n + 1


def packs_of(path: Path) -> list[bytes]:
    paths = StorePaths(path)
    until(lambda: not lifecycle.coordinator_runs(paths), "the coordinator leaves")
    writer = l2.Writer(paths, sync=False)
    try:
        return [bytes(pack) for _, pack in writer.packs_between(0, 1 << 40)]
    finally:
        writer.close()


def test_more_than_one_transaction_holds_is_one_round(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with helios_shm.open(store_path) as engine:
        process = coordinator_of(engine)
        process.suspend()
        values = {f"{n}": os.urandom(200_000) for n in range(400)}
        ws = engine.branch("main").fork()
        ws.update(values)
        ws.commit("80 MB")
        process.resume()
        engine.sync()
    with helios_shm.open(store_path) as engine:
        head = engine.branch("main").head
        assert all(head[key] == values[key] for key in ("0", "57", "399")) and len(head) == 400


def test_an_idle_coordinator_hardly_wakes(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        process = coordinator_of(engine)
        before = process.num_ctx_switches().voluntary
        threshold = time.monotonic() + 1.0
        until(lambda: time.monotonic() > threshold, "a second passes")
        assert process.num_ctx_switches().voluntary - before < 50


# ---- the disk says no ----


def test_a_full_disk_is_never_acknowledged_and_is_got_over(store_path: Path) -> None:
    """RLIMIT_FSIZE makes writes fail as a full disk does."""
    with helios_shm.open(store_path) as engine:
        ws = engine.branch("main").fork()
        ws["before"] = b"1"
        ws.commit("before", durable=True)
        process = coordinator_of(engine)
        size = (store_path / "db" / "data.mdb").stat().st_size
        limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
        ws["during"] = os.urandom(200_000)
        ws.commit("during")
        with pytest.raises(helios_shm.BusyError, match=r"data\.mdb|db|writing"):
            engine.sync(timeout=1.5)
        assert lifecycle.coordinator_error(StorePaths(store_path))
        assert engine.branch("main").head["before"] == b"1"
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
        engine.sync()
        until(lambda: not lifecycle.coordinator_error(StorePaths(store_path)), "the note is removed")
        assert coordinator_of(engine).pid == process.pid
    with helios_shm.open(store_path) as engine:
        assert [commit.message for commit in engine.branch("main").log()] == ["during", "before"]


def test_a_store_removed_under_it_leaves_no_memory_behind(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        engine.branch("main").fork().commit("x", metadata={"a": 1})
        process = coordinator_of(engine)
        segment = Path("/dev/shm" + lifecycle.identify(StorePaths(store_path)).segment_name)
    gone = lifecycle.detach_directory(StorePaths(store_path))
    process.wait(WAIT_SECONDS_MAX)
    assert not segment.exists()
    os.rename(gone, store_path)


def test_an_ephemeral_store_is_not_drained_until_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with helios_shm.open(None, l1_bytes=4 << 20) as engine:
        paths = StorePaths(engine.path)
        until(lambda: lifecycle.coordinator_runs(paths), "it runs")
        ws = engine.branch("main").fork()
        for n in range(100):
            ws[f"{n}"] = os.urandom(100_000)
            ws.commit(f"{n}")
        head = engine.branch("main").head
        assert len(head) == 100 and len(head["0"]) == 100_000
        assert (paths.db / "data.mdb").stat().st_size > 5_000_000
    until(lambda: not paths.root.exists(), "it is gone")


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["a", "b"], 2), (["/no/such/store"], 1)])
def test_the_program_says_what_is_wrong(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "helios_shm.coordinator", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status and done.stderr


# ---- memory ----


def anonymous_bytes(pid: int) -> int:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("Anonymous:"))


def test_an_idle_coordinator_gives_the_memory_of_its_transactions_back(store_path: Path) -> None:
    """Its own buffers stay, 5 MiB; the heap that LMDB's transactions leave, twice that, does not."""
    with helios_shm.open(store_path) as engine:
        pid = coordinator_of(engine).pid
        before = anonymous_bytes(pid)
        workspace = engine.branch("main").fork()
        workspace.update({f"{n:05d}": b"%d" % n * 200 for n in range(10_000)})
        workspace.commit()
        for n in range(12_000):
            workspace[f"{n % 4_000:05d}"] = b"%d/%d" % (n, n) * 100
            workspace.commit()
        engine.sync()
        assert engine.stats().coordinator_pid == pid
        until(lambda: anonymous_bytes(pid) <= before + (7 << 20), "an idle coordinator as small as before")
