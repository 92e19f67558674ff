"""Reading by csrc/python: each fast path, and each way out of it, gives what the plain-Python twin gives."""

import ctypes
import gc
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

import helios_shm
from helios_shm import config
from helios_shm._capi import ffi
from helios_shm.attachment import Attachment
from helios_shm.errors import ClosedError
from helios_shm.l1 import L1
from tests.processes.rig import until_nothing_runs


def noise(size: int, seed: object = 0) -> bytes:
    return blake3(f"{seed}/{size}".encode()).digest(length=size)


SIZES = (
    0,
    1,
    64,
    65,
    1024,
    2048,
    2049,
    4095,
    4096,
    65536,
    65537,
    config.BLOB_BYTES_MIN - 1,
    config.BLOB_BYTES_MIN,
)
CONTENT = (
    {f"size/{size:07}": noise(size) for size in SIZES}
    | {f"text/{size:07}": b"all work and no play " * (size // 21) for size in SIZES if size >= 4096}
    | {f"many/{i:05}": noise(i % 200, i) for i in range(3000)}
    | {"ä/ö": b"umlauts", "many/€": b"euro", "日本": noise(500)}
)
ORDER = sorted(CONTENT, key=str.encode)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose segment is gone: what is read first comes from L2."""
    root = tmp_path_factory.mktemp("hot") / "store"
    with helios_shm.open(root, l1_bytes=16 << 20) as engine:
        workspace = engine.branch("main").fork()
        workspace.update(CONTENT)
        workspace.commit()
        engine.sync()
    return root


@pytest.fixture
def engine(path: Path) -> Iterator[helios_shm.Engine]:
    with helios_shm.open(path) as opened:
        yield opened


def pool_of(engine: helios_shm.Engine) -> list[Any]:
    pool: list[Any] = engine._attachment.pool
    return pool


def fresh(engine: helios_shm.Engine) -> helios_shm.Snapshot:
    """The head, with nothing remembered."""
    return engine.snapshot(engine.branch("main").head.id)


# --- everything, from everywhere ---


@pytest.mark.parametrize("source", ["l2", "l1", "private nodes"])
def test_all_is_read_whatever_it_is_and_wherever_it_comes_from(
    tmp_path: Path, path: Path, source: str
) -> None:
    root = path if source == "l2" else tmp_path / "store"
    with helios_shm.open(root, l1_bytes=64 << 20) as engine:
        if source != "l2":
            workspace = engine.branch("main").fork()
            workspace.update(CONTENT)
            workspace.commit()
        if source == "l1":
            engine._attachment.forget_nodes()
        assert dict(fresh(engine).items()) == CONTENT
        assert list(fresh(engine)) == list(fresh(engine).keys()) == ORDER
        snapshot = fresh(engine)
        for name, value in CONTENT.items():
            assert snapshot[name] == value == snapshot[name]
            assert name in snapshot


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("start", [None, "many/00031", "many/00032x", "zzz", "日本"])
def test_ranges_have_their_bounds_in_both_directions(
    engine: helios_shm.Engine, start: str | None, reverse: bool
) -> None:
    for stop in (None, "many/00100", "many/02999", "size/", "日本"):
        within = [
            name
            for name in ORDER
            if name.encode() >= (start or "").encode() and (stop is None or name.encode() < stop.encode())
        ]
        expected = within[::-1] if reverse else within
        turn: Callable[[Any], Iterator[Any]] = reversed if reverse else iter
        assert list(turn(fresh(engine).keys(start=start, stop=stop))) == expected
        items = list(turn(fresh(engine).items(start=start, stop=stop)))
        assert items == [(name, CONTENT[name]) for name in expected]


def test_nothing_but_the_next_path_is_needed_to_go_on(engine: helios_shm.Engine) -> None:
    """Iterators that are dropped, interleaved and advanced past their end."""
    one, other = iter(fresh(engine)), iter(fresh(engine).items())
    assert [next(one) for _ in range(3)] == ORDER[:3]
    assert next(other) == (ORDER[0], CONTENT[ORDER[0]])
    assert [next(one) for _ in range(100)] == ORDER[3:103]
    rest = list(other)
    assert rest == [(name, CONTENT[name]) for name in ORDER[1:]]
    assert next(other, None) is None and next(other, None) is None
    del one


# --- what is no path, or is not there ---


class Text(str):
    """A str that is not exactly one."""


@pytest.mark.parametrize("absent", ["", "absent", "many/", "\ud800", "ü", "x" * 2000, "many/00001\0"])
def test_absent_path(engine: helios_shm.Engine, absent: str) -> None:
    snapshot = fresh(engine)
    assert absent not in snapshot
    assert snapshot.get(absent) is None
    with pytest.raises(KeyError):
        snapshot[absent]


@pytest.mark.parametrize("other", [b"many/00001", 1, None])
def test_what_is_no_str_is_no_path(engine: helios_shm.Engine, other: Any) -> None:
    snapshot = fresh(engine)
    assert other not in snapshot
    with pytest.raises(TypeError):
        snapshot[other]


def test_subclass_of_str_is_a_path(engine: helios_shm.Engine) -> None:
    snapshot = fresh(engine)
    assert snapshot[Text("many/00001")] == CONTENT["many/00001"]
    assert Text("many/00002") in snapshot


# --- when the fast path is not open ---


def held(engine: helios_shm.Engine) -> tuple[Callable[[], int], Callable[[], int]]:
    """Take and give the engine's mutex, its first member, as a C call in another thread would."""
    address = ctypes.c_void_p(int(ffi.cast("uintptr_t", engine._attachment._engine)))
    library = ctypes.CDLL(None)
    return lambda: library.pthread_mutex_lock(address), lambda: library.pthread_mutex_unlock(address)


@pytest.mark.parametrize(
    ("slow", "read", "expected"),
    [
        ("_look_up", lambda s: s["many/00001"], CONTENT["many/00001"]),
        ("_contains", lambda s: "many/00001" in s, True),
        ("_scan_slowly", lambda s: list(iter(s.keys("text/"))), [n for n in ORDER if n.startswith("text/")]),
        ("_scan_slowly", lambda s: list(iter(s.items("ä"))), [("ä/ö", b"umlauts")]),
    ],
)
def test_who_finds_the_mutex_taken_waits_without_the_gil(
    engine: helios_shm.Engine,
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
    read: Callable[[helios_shm.Snapshot], object],
    expected: object,
) -> None:
    take, give = held(engine)
    snapshot = fresh(engine)
    read(fresh(engine))  # nodes and calls are there
    waits = threading.Event()
    original = getattr(helios_shm.Snapshot, slow)

    def told(self: helios_shm.Snapshot, *args: Any) -> Any:
        waits.set()
        return original(self, *args)

    monkeypatch.setattr(helios_shm.Snapshot, slow, told)
    answers: list[object] = []
    reader = threading.Thread(target=lambda: answers.append(read(snapshot)))
    take()
    try:
        reader.start()
        assert waits.wait(20)
        assert answers == []
    finally:
        give()
    reader.join(20)
    assert answers == [expected]


def test_l1_waits_for_the_mutex_too(engine: helios_shm.Engine) -> None:
    take, give = held(engine)
    l1 = L1(engine._attachment)
    id = l1.put(noise(100))
    answers: list[object] = []
    readers = [
        threading.Thread(target=lambda: answers.append(l1.get(id))),
        threading.Thread(target=lambda: answers.append(l1.put(noise(100)))),
    ]
    take()
    try:
        for reader in readers:
            reader.start()
        assert answers == []
    finally:
        give()
    for reader in readers:
        reader.join(20)
    assert len(answers) == 2
    assert id in answers and noise(100) in answers


def test_pool_without_a_call_is_no_obstacle(engine: helios_shm.Engine) -> None:
    snapshot = fresh(engine)
    assert snapshot["many/00007"] == CONTENT["many/00007"]
    pool = pool_of(engine)
    taken = pool[:]
    pool.clear()
    assert snapshot["many/00008"] == CONTENT["many/00008"]
    pool.clear()
    assert "many/00008" in snapshot
    pool.clear()
    assert list(snapshot.keys("size/")) == [name for name in ORDER if name.startswith("size/")]
    pool.clear()
    assert snapshot.fork().base == snapshot
    pool.clear()
    id = L1(engine._attachment).put(b"value")
    pool.clear()
    assert L1(engine._attachment).get(id) == b"value"
    pool.extend(taken)  # the calls that were made instead do not come back: close waits for all that live


def test_closed_engine_answers_nothing(path: Path) -> None:
    engine = helios_shm.open(path)
    snapshot, begun = fresh(engine), iter(fresh(engine))
    assert snapshot["many/00001"] == CONTENT["many/00001"]
    l1, first = L1(engine._attachment), next(begun)
    assert first == ORDER[0]
    engine.close()
    attempts: list[Callable[[], object]] = [
        lambda: snapshot["many/00001"],
        lambda: snapshot["many/00002"],
        lambda: "many/00001" in snapshot,
        lambda: list(begun),
        lambda: next(iter(snapshot)),
        lambda: next(iter(snapshot.items())),
        lambda: snapshot.fork(),
        lambda: l1.put(b"value"),
        lambda: l1.get(bytes(32)),
    ]
    for attempt in attempts:
        with pytest.raises(ClosedError):
            attempt()


def child(snapshot: helios_shm.Snapshot, answers: Any) -> None:
    """In a forked process, whose pool is empty."""
    there = "many/00003" in snapshot
    forked = snapshot.fork()
    forked["new"] = b"1"
    answers.put(
        (there, snapshot["many/00003"], list(snapshot.keys("size/")), forked.commit().snapshot["new"])
    )


def test_forked_child_reads_on(engine: helios_shm.Engine) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    snapshot = fresh(engine)
    assert snapshot["many/00001"] == CONTENT["many/00001"]
    process = context.Process(target=child, args=(snapshot, answers))
    process.start()
    names = [name for name in ORDER if name.startswith("size/")]
    assert answers.get() == (True, CONTENT["many/00003"], names, b"1")
    process.join(20)
    assert process.exitcode == 0


# --- what Python code in between may do ---


@pytest.mark.parametrize("enabled", [False, True])
def test_collector_is_left_as_it_was(engine: helios_shm.Engine, enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        snapshot = fresh(engine)
        assert snapshot["many/00001"] == CONTENT["many/00001"]
        assert "absent" not in snapshot and len(list(snapshot.items("many/"))) == 3001
        assert L1(engine._attachment).get(bytes(32)) is None
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_memory_that_is_taken_away_while_a_value_is_remembered(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fresh(engine)
    monkeypatch.setattr(Attachment, "forget_on_close", lambda _, told: delattr(told, "_read"))
    assert snapshot["many/00001"] == CONTENT["many/00001"]


def test_who_cannot_be_told_of_the_close_remembers_nothing(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = fresh(engine)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Attachment, "forget_on_close", lambda *_: 1 // 0)
        snapshot["many/00001"]
    assert snapshot._read == {}
    assert snapshot["many/00001"] == CONTENT["many/00001"]


def test_iterator_that_is_advanced_while_it_advances_says_so(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterator = iter(fresh(engine))

    def nested(*_: object) -> object:
        return next(iterator)

    monkeypatch.setattr(helios_shm.Snapshot, "_scan_slowly", nested)
    taken = pool_of(engine)[:]
    pool_of(engine).clear()
    with pytest.raises(ValueError, match="advanced already"):
        next(iterator)
    pool_of(engine).extend(taken)
    monkeypatch.undo()
    assert next(iterator) == ORDER[0]


@pytest.mark.parametrize(
    "answer", [None, ([], []), ([], None, False), (["a"], [], False), (["a"], None, False)]
)
def test_slow_batch_of_another_form_is_an_error(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(helios_shm.Snapshot, "_scan_slowly", lambda *_: answer)
    iterator = iter(fresh(engine).items())
    taken = pool_of(engine)[:]
    pool_of(engine).clear()
    with pytest.raises(TypeError):
        next(iterator)
    pool_of(engine).extend(taken)


def test_snapshot_that_was_never_filled_has_nothing() -> None:
    empty = helios_shm.Snapshot.__new__(helios_shm.Snapshot)
    for attempt in (
        lambda: empty["a"],
        lambda: "a" in empty,
        lambda: next(iter(empty)),
        lambda: empty.fork(),
    ):
        with pytest.raises(AttributeError):
            attempt()


@pytest.mark.parametrize(
    "arguments", [(), (b"", None, False), ("", None, False, False), (b"", "", False, False)]
)
def test_scan_wants_bounds_of_bytes(engine: helios_shm.Engine, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        fresh(engine)._scan(*arguments)


# --- values that L2 alone has ---


@pytest.fixture
def cold(path: Path) -> Iterator[helios_shm.Engine]:
    until_nothing_runs(path)  # and so the segment of the test before has gone
    with helios_shm.open(path) as engine:
        yield engine


def test_scan_brings_the_values_of_a_batch_from_l2_together(
    cold: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = Attachment.load_values
    monkeypatch.setattr(
        Attachment,
        "load_values",
        lambda self, wanted: asked.append(len(wanted)) or plain(self, wanted),  # type: ignore[func-returns-value]
    )
    assert dict(cold.branch("main").head.items()) == CONTENT
    hashed = sum(len(value) > 64 for value in CONTENT.values())
    assert 0 < len(asked) < hashed // 4  # a leaf's at a time, while the leaves come from L2 too


@pytest.mark.parametrize("keep", [0, 3])
def test_value_that_one_look_does_not_find_is_looked_for_by_itself(
    cold: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    plain = Attachment.load_values

    def some(self: Attachment, wanted: Any) -> list[bytes | None]:
        values = plain(self, wanted)
        return [value if keep and i % keep == 0 else None for i, value in enumerate(values)]

    monkeypatch.setattr(Attachment, "load_values", some)
    assert dict(cold.branch("main").head.items()) == CONTENT


@pytest.mark.parametrize("answer", [None, (), [], [None]])
def test_what_is_no_value_for_each_is_refused(
    cold: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setattr(Attachment, "load_values", lambda self, wanted: answer)
    with pytest.raises(TypeError, match="load_values"):
        list(cold.branch("main").head.items("many/"))


def test_iterator_cannot_be_advanced_while_it_loads(
    cold: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = iter(cold.branch("main").head.items("many/"))
    plain = Attachment.load_values

    def nested(self: Attachment, wanted: Any) -> list[bytes | None]:
        with pytest.raises(ValueError, match="already"):
            next(items)
        return plain(self, wanted)

    monkeypatch.setattr(Attachment, "load_values", nested)
    assert sum(1 for _ in items) == sum(key.startswith("many/") for key in CONTENT)
