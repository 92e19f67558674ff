"""ingest and materialize: a directory becomes a state, and a state a directory, by delta and nowhere else."""

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Engine, Workspace, materialize
from helios_shm.errors import BusyError, ExistsError
from helios_shm.store import StorePaths
from tests.trees import Tree, entries_of, plant, state, tree_of

SAMPLE: Tree = {
    "readme": ("file", b"hello"),
    "run.sh": ("executable", b"#!/bin/sh\n" * 20),
    "empty": ("file", b""),
    "src/a.py": ("file", b"a" * 65),
    "src/deep/er/b.py": ("file", b"b" * 5000),
    "src/link": ("symlink", b"../../outside"),
    "large": ("file", os.urandom(300 << 10)),
    "void/inner": ("directory", b""),
    "umläut/ß": ("file", b"\0\xff"),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One store for all tests that look into no store: what they are about lies outside of it."""
    with helios_shm.open(tmp_path_factory.mktemp("files") / "store") as opened:
        yield opened


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "place"


def identity(path: Path) -> tuple[int, ...]:
    """What changes in a file that is written or replaced; reading it may change its atime."""
    status = path.lstat()
    return (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def identities(root: Path) -> dict[Path, tuple[int, ...]]:
    return {path: identity(path) for path in root.rglob("*")}


# --- there and back ---


def test_directory_becomes_state(engine: Engine, place: Path) -> None:
    ws = engine.empty.fork()
    metrics = ws.ingest(plant(place, SAMPLE), prefix="p/")
    assert entries_of(ws.commit().snapshot, "p/") == SAMPLE
    assert (metrics.read, metrics.changed, metrics.removed) == (8, 9, 0)


def test_state_becomes_directory(engine: Engine, place: Path) -> None:
    metrics = state(engine, SAMPLE).materialize(place)
    assert tree_of(place) == SAMPLE
    assert (metrics.written, metrics.removed, metrics.skipped) == (9, 0, 0)


def test_nothing_is_written_or_read_twice(engine: Engine, place: Path) -> None:
    snapshot = state(engine, SAMPLE)
    snapshot.materialize(place)
    before = identities(place)
    metrics = snapshot.materialize(place)
    assert (metrics.written, metrics.skipped) == (0, len(SAMPLE))
    assert identities(place) == before
    for path in place.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    ws = snapshot.fork()
    ws.ingest(place)  # looks at what changed its times
    assert ws.edits == {}
    again = ws.ingest(place)
    assert again.changed == 0


def test_only_what_differs_is_written_and_removed(engine: Engine, place: Path) -> None:
    first = state(engine, SAMPLE)
    first.materialize(place)
    kept = identity(place / "src/a.py")
    tree = dict(SAMPLE)
    del tree["src/deep/er/b.py"], tree["void/inner"]
    tree["readme"] = ("executable", b"hello")
    tree["src/link"] = ("file", b"no link")
    metrics = state(engine, tree).materialize(place)
    assert tree_of(place) == tree
    assert not (place / "src/deep").exists()
    assert (metrics.written, metrics.removed, metrics.skipped) == (2, 1, 5)
    assert identity(place / "src/a.py") == kept


def test_ingest_takes_deletions_and_leaves_other_prefixes(engine: Engine, place: Path) -> None:
    ws = state(engine, {"p/a": ("file", b"1"), "p/b": ("file", b"2"), "q": ("file", b"3")}).fork()
    metrics = ws.ingest(plant(place, {"a": ("file", b"1"), "c": ("file", b"4")}), prefix="p/")
    assert entries_of(ws.commit().snapshot) == {
        "p/a": ("file", b"1"),
        "p/c": ("file", b"4"),
        "q": ("file", b"3"),
    }
    assert (metrics.changed, metrics.removed) == (1, 1)


def test_ingest_compares_with_pending_edits(engine: Engine, place: Path) -> None:
    ws = state(engine, {"a": ("file", b"1")}).fork()
    ws["b"], ws["a"] = b"pending", b"pending"
    ws.ingest(plant(place, {"a": ("file", b"1")}))
    assert entries_of(ws.commit().snapshot) == {"a": ("file", b"1")}


def test_change_that_keeps_size_and_mtime_is_seen(engine: Engine, place: Path) -> None:
    snapshot = state(engine, {"a": ("file", b"1111")})
    snapshot.materialize(place)
    snapshot.materialize(place)
    before = (place / "a").stat()
    (place / "a").write_bytes(b"2222")
    os.utime(place / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    ws = snapshot.fork()
    ws.ingest(place)
    assert ws["a"] == b"2222"
    assert snapshot.materialize(place).written == 1
    assert (place / "a").read_bytes() == b"1111"


def test_index_may_be_deleted_or_damaged(store_path: Path, place: Path) -> None:
    with helios_shm.open(store_path) as engine:
        snapshot = state(engine, SAMPLE)
        snapshot.materialize(place)
        (index,) = StorePaths(engine.path).worktrees.iterdir()
        data = bytearray(index.read_bytes())
        data[100] ^= 1
        index.write_bytes(data)
        assert any("damaged index" in each for each in engine.check().damage)
        assert snapshot.materialize(place).skipped == len(SAMPLE)
        assert engine.check().ok
        index.unlink()
        assert snapshot.materialize(place).written == 0


def test_empty_directory_comes_and_goes(engine: Engine, place: Path) -> None:
    ws = engine.empty.fork()
    ws.ingest(plant(place, {"d/e": ("directory", b"")}))
    assert entries_of(ws.commit().snapshot) == {"d/e": ("directory", b"")}
    (place / "d/e/f").write_bytes(b"1")
    ws.ingest(place)
    assert entries_of(ws.commit().snapshot) == {"d/e/f": ("file", b"1")}


def test_what_is_no_file_is_passed_over(engine: Engine, place: Path) -> None:
    plant(place, {"a": ("file", b"1")})
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(place / "socket"))
        ws = engine.empty.fork()
        ws.ingest(place)
    assert list(ws) == ["a"]


def test_nested_state_becomes_a_directory_and_stays(engine: Engine, place: Path) -> None:
    inner = state(engine, {"x": ("file", b"1"), "y/z": ("executable", b"2")})
    ws = engine.empty.fork()
    ws.put("sub", inner)
    ws["top"] = b"3"
    outer = ws.commit().snapshot
    outer.materialize(place)
    assert tree_of(place) == {"sub/x": ("file", b"1"), "sub/y/z": ("executable", b"2"), "top": ("file", b"3")}
    ws = outer.fork()
    ws.ingest(place)
    assert ws.edits == {}
    (place / "sub/x").write_bytes(b"changed")
    ws.ingest(place)
    assert entries_of(ws.commit().snapshot) == tree_of(place)


# --- patterns ---


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        ([], ["*.pyc"], {"a.py", "b/c.py", "b/d/e.txt"}),
        ([], ["b/"], {"a.py", "a.pyc"}),
        ([], ["/a.py", "d"], {"a.pyc", "b/c.py"}),
        ([], ["**/d/", "!b/d/e.txt"], {"a.py", "a.pyc", "b/c.py"}),
        ([], ["*", "!*.py"], {"a.py"}),
        (["*.py"], [], {"a.py", "b/c.py"}),
        (["b/**"], ["*.txt"], {"b/c.py"}),
        (["*", "!*.py"], [], {"a.pyc", "b/d/e.txt"}),
    ],
)
def test_patterns_are_those_of_gitignore(
    engine: Engine, place: Path, include: list[str], exclude: list[str], taken: set[str]
) -> None:
    tree: Tree = {name: ("file", name.encode()) for name in ("a.py", "a.pyc", "b/c.py", "b/d/e.txt")}
    ws = engine.empty.fork()
    ws.ingest(plant(place, tree), include=include, exclude=exclude)
    assert set(ws) == taken
    out = place.with_name("out")
    state(engine, tree).materialize(out, include=include, exclude=exclude)
    assert set(tree_of(out)) == taken


def test_excluded_paths_stay_as_they_are(engine: Engine, place: Path) -> None:
    snapshot = state(engine, {"a": ("file", b"1"), "x/secret": ("file", b"2")})
    ws = snapshot.fork()
    ws.ingest(plant(place, {"x/other": ("file", b"3")}), exclude=["x/"])
    assert entries_of(ws.commit().snapshot) == {"x/secret": ("file", b"2")}
    snapshot.materialize(place, exclude=["x/"], clean=True)
    assert tree_of(place) == {"a": ("file", b"1"), "x/other": ("file", b"3")}


def test_bad_patterns_are_refused(engine: Engine, place: Path) -> None:
    ws = engine.empty.fork()
    place.mkdir()
    with pytest.raises(TypeError, match=r"include=\['\*.py'\]"):
        ws.ingest(place, include="*.py")
    with pytest.raises(ValueError, match="Invalid git pattern"):
        ws.ingest(place, exclude=["!"])
    with pytest.raises(TypeError, match="not int"):
        ws.ingest(place, exclude=[3])  # type: ignore[list-item]


# --- what materialize may remove ---


def test_only_what_an_earlier_one_wrote_is_removed(engine: Engine, place: Path) -> None:
    plant(place, {"mine": ("file", b"m"), "d/mine": ("file", b"m")})
    state(engine, {"d/a": ("file", b"1"), "d/b": ("file", b"2"), "e/c": ("file", b"3")}).materialize(place)
    (place / "d/b").write_bytes(b"changed since")
    metrics = engine.empty.materialize(place)
    assert metrics.removed == 2
    assert tree_of(place) == {
        "mine": ("file", b"m"),
        "d/mine": ("file", b"m"),
        "d/b": ("file", b"changed since"),
    }


def test_clean_removes_the_rest(engine: Engine, place: Path) -> None:
    plant(place, {"mine": ("file", b"m"), "d/e/f": ("symlink", b"/"), "void": ("directory", b"")})
    os.mkfifo(place / "pipe")
    metrics = state(engine, {"d/a": ("file", b"1")}).materialize(place, clean=True)
    assert tree_of(place) == {"d/a": ("file", b"1")}
    assert metrics.removed == 3


def test_what_the_state_has_is_made_so(engine: Engine, place: Path) -> None:
    plant(place, {"a": ("file", b"mine"), "b": ("symlink", b"/etc/passwd"), "c": ("executable", b"3")})
    tree: Tree = {"a": ("file", b"1"), "b": ("file", b"2"), "c": ("file", b"3")}
    state(engine, tree).materialize(place)
    assert tree_of(place) == tree


def test_file_becomes_directory_and_back(engine: Engine, place: Path) -> None:
    one, two = state(engine, {"a": ("file", b"1")}), state(engine, {"a/b/c": ("file", b"2")})
    for snapshot in (one, two, one, two):
        snapshot.materialize(place)
        assert tree_of(place) == entries_of(snapshot)


def test_foreign_file_in_the_way_of_a_directory_is_refused(engine: Engine, place: Path) -> None:
    plant(place, {"a": ("file", b"mine")})
    snapshot = state(engine, {"a/b": ("file", b"1"), "0": ("file", b"0")})
    with pytest.raises(ExistsError, match="in the way"):
        snapshot.materialize(place)
    assert tree_of(place) == {"a": ("file", b"mine")}
    snapshot.materialize(place, clean=True)
    assert tree_of(place) == entries_of(snapshot)


def test_foreign_directory_in_the_way_of_a_file_is_refused(engine: Engine, place: Path) -> None:
    plant(place, {"a/b/c": ("file", b"mine")})
    snapshot = state(engine, {"a": ("file", b"1")})
    with pytest.raises(ExistsError, match="in the way"):
        snapshot.materialize(place)
    assert tree_of(place) == {"a/b/c": ("file", b"mine")}
    snapshot.materialize(place, clean=True)
    assert tree_of(place) == entries_of(snapshot)


# --- hostile names ---


@pytest.mark.parametrize(
    "path",
    [
        "/etc/x",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "x\0y",
        "n" * 256,
        "a/" + "é" * 200,
    ],
)
def test_unsafe_path_is_refused_before_anything_is_written(engine: Engine, place: Path, path: str) -> None:
    snapshot = state(engine, {"0": ("file", b"0"), path: ("file", b"1")})
    with pytest.raises(ValueError, match="cannot be a path below a directory"):
        snapshot.materialize(place)
    assert not place.exists()


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "a/b"], "cannot be both"),
        (["Read", "READ"], "case makes no difference"),
        (["Dir/x", "dir/y"], "case makes no difference"),
        (["STRASSE", "straße"], "case makes no difference"),
        (["e\u0301", "é"], "case makes no difference"),
    ],
)
def test_clashes_are_refused(engine: Engine, place: Path, paths: list[str], message: str) -> None:
    snapshot = state(engine, dict.fromkeys(paths, ("file", b"")))
    with pytest.raises(ValueError, match=message):
        snapshot.materialize(place)
    assert not place.exists()


def test_case_clashes_may_be_allowed(engine: Engine, place: Path) -> None:
    tree: Tree = {"Read": ("file", b"1"), "READ": ("file", b"2")}
    state(engine, tree).materialize(place, allow_case_clashes=True)
    assert tree_of(place) == tree


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("symlink", b""), "1..4095 bytes"),
        (("symlink", b"x" * 5000), "1..4095 bytes"),
        (("symlink", b"a\0b"), "zero byte"),
        (("directory", b"x"), "value is empty"),
    ],
)
def test_entries_that_cannot_be_made_are_refused(
    engine: Engine, place: Path, entry: tuple[str, bytes], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        state(engine, {"a": entry}).materialize(place)
    assert not place.exists()


def test_prefix_must_leave_something(engine: Engine, place: Path) -> None:
    snapshot = state(engine, {"src": ("file", b""), "src/a": ("file", b"")})
    with pytest.raises(ValueError, match="nothing is left of it"):
        snapshot.materialize(place, prefix="src")


def test_no_link_is_followed(engine: Engine, place: Path, tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", {"f": ("file", b"precious")})
    place.mkdir()
    os.symlink(outside, place / "d")
    os.symlink(outside / "f", place / "f")
    snapshot = state(engine, {"d/f": ("file", b"x"), "f": ("file", b"y")})
    with pytest.raises(ExistsError):
        snapshot.materialize(place)
    snapshot.materialize(place, clean=True)
    assert tree_of(place) == entries_of(snapshot)
    assert tree_of(outside) == {"f": ("file", b"precious")}


def test_clean_removes_links_and_not_what_they_lead_to(engine: Engine, place: Path, tmp_path: Path) -> None:
    outside = plant(tmp_path / "outside", {"f": ("file", b"precious")})
    place.mkdir()
    os.symlink(outside, place / "d")
    engine.empty.materialize(place, clean=True)
    assert tree_of(place) == {}
    assert tree_of(outside) == {"f": ("file", b"precious")}


def test_name_that_is_no_utf8_is_refused(engine: Engine, place: Path) -> None:
    plant(place, {"a": ("file", b"1")})
    Path(os.fsdecode(os.fsencode(place) + b"/\xff\xfe")).write_bytes(b"")
    ws = engine.empty.fork()
    with pytest.raises(ValueError, match="not UTF-8"):
        ws.ingest(place)
    assert ws.edits == {}
    ws.ingest(place, include=["a"])
    engine.empty.materialize(place, clean=True)
    assert os.listdir(place) == []


def test_name_that_is_too_long_is_refused(engine: Engine, place: Path) -> None:
    ws = engine.empty.fork()
    with pytest.raises(ValueError, match="at most 1024"):
        ws.ingest(plant(place, {"a": ("file", b"1")}), prefix="p" * 1024)


# --- the store and the directory ---


def test_store_is_no_place_and_no_content(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        around = store_path.parent
        (around / "a").write_bytes(b"1")
        ws = engine.empty.fork()
        ws.ingest(around, include=["/a", f"/{store_path.name}/"])
        assert list(ws) == ["a"]
        with pytest.raises(ValueError, match="inside the store"):
            ws.commit().snapshot.materialize(store_path / "blobs")
        engine.empty.materialize(around, clean=True, include=["/a", f"/{store_path.name}/"])
        assert not (around / "a").exists()
        assert engine.check().ok


def test_directory_that_is_not_there(engine: Engine, place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        engine.empty.fork().ingest(place)
    place.write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        engine.empty.fork().ingest(place)
    with pytest.raises(TypeError, match="not int"):
        engine.empty.fork().ingest(3)  # type: ignore[arg-type]


def test_readonly_store_materializes(store_path: Path, place: Path) -> None:
    with helios_shm.open(store_path) as engine, engine.branch("main").transaction() as ws:
        for path, (kind, data) in SAMPLE.items():
            ws.put(path, data, kind=kind)  # type: ignore[arg-type]
    with helios_shm.open(store_path, readonly=True) as engine:
        engine.branch("main").head.materialize(place)
        assert tree_of(place) == SAMPLE
        assert engine.branch("main").head.materialize(place).written == 0
        assert not StorePaths(engine.path).worktrees.exists()


@pytest.mark.parametrize("links", ["copy", "hard", "reflink"])
def test_large_values_by_any_way(engine: Engine, place: Path, links: str) -> None:
    data = os.urandom(300 << 10)
    tree: Tree = {"a": ("file", data), "b": ("executable", data), "c": ("file", b"small")}
    state(engine, tree).materialize(place, links=links)  # type: ignore[arg-type]
    assert tree_of(place) == tree
    assert ((place / "a").stat().st_nlink > 1) == (links == "hard")
    tree["a"] = ("file", b"another")
    state(engine, tree).materialize(place)
    assert tree_of(place) == tree
    assert engine.check().ok


def test_bad_options_are_refused(engine: Engine, place: Path) -> None:
    with pytest.raises(ValueError, match="copy, hard, reflink"):
        engine.empty.materialize(place, links="soft")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"1\.\.64"):
        engine.empty.materialize(place, workers=0)
    with pytest.raises(TypeError, match="not str"):
        engine.empty.materialize(place, workers="2")  # type: ignore[arg-type]


def test_umask_has_its_say(engine: Engine, place: Path) -> None:
    before = os.umask(0o177)
    try:
        state(engine, {"a": ("executable", b"1"), "b": ("file", b"2")}).materialize(place)
    finally:
        os.umask(before)
    assert stat.S_IMODE((place / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "b").stat().st_mode) == 0o600


def test_setuid_is_neither_kept_nor_made(engine: Engine, place: Path) -> None:
    plant(place, {"a": ("executable", b"1")})
    (place / "a").chmod(0o6755)
    ws = engine.empty.fork()
    ws.ingest(place)
    out = place.with_name("out")
    ws.commit().snapshot.materialize(out)
    assert not (out / "a").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)


def test_progress_is_told(engine: Engine, place: Path) -> None:
    tree: Tree = {f"f{number}": ("file", b"%d" % number) for number in range(1500)}
    told: list[tuple[int, int]] = []
    state(engine, tree).materialize(place, progress=lambda *given: told.append(given))
    assert told[-1] == (1500, 1500)
    assert len(told) > 1
    told.clear()
    engine.empty.fork().ingest(place, progress=lambda *given: told.append(given))
    assert told[-1] == (1500, 1500)


# --- interrupted ---


class Stop(Exception):
    pass


def stopping(after: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    return progress


@pytest.mark.parametrize("after", [1, 600, 1100])
def test_stopped_half_way_it_can_be_run_again(engine: Engine, place: Path, after: int) -> None:
    first: Tree = {f"d{number % 7}/f{number}": ("file", b"1%d" % number) for number in range(1500)}
    second: Tree = {f"d{number % 5}/f{number}": ("file", b"2%d" % number) for number in range(1500)}
    state(engine, first).materialize(place)
    with pytest.raises(Stop):
        state(engine, second).materialize(place, progress=stopping(after))
    third = state(engine, {"x": ("file", b"3")})
    third.materialize(place)
    assert tree_of(place) == entries_of(third)  # what either wrote is known for theirs
    with pytest.raises(Stop):
        state(engine, second).materialize(place, progress=stopping(after))
    state(engine, second).materialize(place)
    assert tree_of(place) == second


def test_what_a_dead_one_left_half_written_is_known(
    engine: Engine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As kill -9 leaves it: the index announces, a new file has half of its bytes, one is still temporary."""
    data = os.urandom(2000)

    def die(work: materialize._Work) -> None:
        raise Stop

    monkeypatch.setattr(materialize._Work, "write", die)
    with pytest.raises(Stop):
        state(engine, {"a": ("file", data), "b": ("file", data), "c": ("file", data)}).materialize(place)
    monkeypatch.undo()
    (place / "a").write_bytes(data[:1000])
    (place / "b").write_bytes(b"")
    (place / "c").write_bytes(b"of another")
    (place / ".helios-tmp-0123456789abcdef").write_bytes(data)
    engine.empty.materialize(place)
    assert tree_of(place) == {"c": ("file", b"of another")}


def test_one_at_a_time(engine: Engine, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    from helios_shm import files

    place.mkdir()
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        monkeypatch.setattr(files, "_LOCK_SECONDS", 0.05)
        with pytest.raises(BusyError, match="another process"):
            engine.empty.materialize(place)
    finally:
        os.close(fd)


def test_workspace_is_as_before_when_ingest_fails(engine: Engine, place: Path) -> None:
    ws: Workspace = engine.empty.fork()
    ws["a"] = b"pending"
    with pytest.raises(Stop):
        ws.ingest(plant(place, {"b": ("file", b"1")}), progress=stopping(0))
    assert ws.edits == {"a": b"pending"}
