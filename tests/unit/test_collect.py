"""Collection: what is kept, what goes, that the disk gets its room back; and the small formats behind it."""

import os
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import helios_shm
from helios_shm import collector, l2, lifecycle
from helios_shm.dead import HORIZON_NS, SECOND, TICK_NS, Clock, Part, part_at, parts_decode, parts_encode
from helios_shm.retention import Rule, rules_of
from helios_shm.store import StorePaths
from helios_shm.workspace import Said
from tests.marking import living, roots_of, stored

NOW = timedelta(0)
RING_BYTES = 4 << 20


def until_left(path: Path) -> StorePaths:
    paths = StorePaths(path)
    while lifecycle.is_in_use(paths):
        time.sleep(0.005)
    return paths


def put(branch: helios_shm.Branch, edits: dict[str, bytes], message: str = "") -> helios_shm.Commit:
    with branch.transaction(message) as ws:
        ws.update(edits)
    return branch.last_commit


def grow(branch: helios_shm.Branch, commits: int, seed: int = 0, *, keys: int = 40) -> list[dict[str, bytes]]:
    """So many commits that each change some keys. Returns the states, oldest first."""
    chance, state, states = random.Random(seed), dict(branch.head), []
    for n in range(commits):
        edits = {
            f"key/{chance.randrange(200)}": chance.randbytes(chance.choice((20, 300))) for _ in range(keys)
        }
        put(branch, edits, f"commit {n}")
        state = {**state, **edits}
        states.append(state)
    return states


def detached(engine: helios_shm.Engine, text: str, keys: int = 30) -> str:
    """A state that no branch has, and nobody holds. Returns its id."""
    ws = engine.empty.fork()
    for i in range(keys):
        ws[f"{text}/{i}"] = f"{text} {i} ".encode() * 20
    return ws.commit().snapshot.id


def is_gone(engine: helios_shm.Engine, id: str) -> bool:
    try:
        engine.snapshot(id)
    except helios_shm.NotFoundError:
        return True
    return False


def used_bytes(path: Path) -> int:
    """What the store takes of the disk: packs and large values."""
    files = [path / "db" / "data.mdb", *(file for file in (path / "blobs").rglob("*") if file.is_file())]
    return sum(file.stat().st_blocks * 512 for file in files)


# ---- what is kept ----


def test_heads_and_all_history_are_kept(engine: helios_shm.Engine) -> None:
    branch = engine.branch("main")
    states = grow(branch, 12)
    engine.gc(grace=NOW)
    assert [dict(commit.snapshot) for commit in branch.log()] == states[::-1]
    assert engine.check().ok


@pytest.mark.parametrize("keep", [1, 3, 12, 50])
def test_so_many_of_the_newest_commits_are_kept(engine: helios_shm.Engine, keep: int) -> None:
    branch = engine.branch("main")
    states = grow(branch, 12)
    ids = [commit.snapshot.id for commit in branch.log()]
    report = engine.gc(history=keep, grace=NOW)
    kept = min(keep, 12)
    assert report.commits_dropped == 12 - kept
    assert [dict(commit.snapshot) for commit in branch.log()] == states[::-1][:kept]
    assert [is_gone(engine, id) for id in ids] == [False] * kept + [True] * (12 - kept)
    assert [branch.at(n).sequence for n in range(13 - kept, 13)] == list(range(13 - kept, 13))
    for n in range(1, 13 - kept):
        with pytest.raises(helios_shm.NotFoundError, match="a collection dropped"):
            branch.at(n)
    assert engine.check().ok
    states += grow(branch, 2, seed=1)
    assert dict(branch.head) == states[-1]


def hours_ago(branch: helios_shm.Branch, ages: list[float]) -> None:
    """Commits that say they were made so many hours ago."""
    for n, age in enumerate(ages):
        ws = branch.fork()
        ws["n"] = f"{n} {branch.name} ".encode() * 10
        ws._commit_said(Said(f"{age}", None, time_ns=time.time_ns() - int(age * 3600 * SECOND)))


def test_commits_younger_than_an_age_are_kept(engine: helios_shm.Engine) -> None:
    branch, mixed = engine.branch("main"), engine.branch("mixed")
    hours_ago(branch, [5, 4, 3, 2, 1])
    hours_ago(mixed, [2, 5, 1, 4])
    dropped = branch.at(1).time
    report = engine.gc(history=timedelta(hours=3.5), grace=NOW)
    assert [commit.message for commit in branch.log()] == ["1", "2", "3"] and report.commits_dropped == 2
    assert [commit.message for commit in mixed.log()] == ["4", "1", "5", "2"], (
        "from the first that is younger on"
    )
    with pytest.raises(helios_shm.NotFoundError):
        branch.at(dropped)
    engine.gc(history=NOW, grace=NOW)
    assert [commit.message for commit in branch.log()] == ["1"], "the head is kept, however old"
    assert engine.check().ok


def test_the_first_pattern_that_matches_says_what_is_kept(engine: helios_shm.Engine) -> None:
    for name in ("agents/1", "agents/keep", "main"):
        grow(engine.branch(name), 4)
    engine.gc(history={"agents/keep": 3, "agents/*": 1}, grace=NOW)
    lengths = {name: len(list(engine.branch(name).log())) for name in engine.branches()}
    assert lengths == {"agents/1": 1, "agents/keep": 3, "main": 4}


def test_tags_and_nested_states_are_kept(engine: helios_shm.Engine) -> None:
    branch = engine.branch("main")
    states = grow(branch, 4)
    old = branch.at(1).snapshot
    engine.tag("first", old)
    inner = engine.snapshot(detached(engine, "inner"))
    with branch.transaction() as ws:
        ws.put("nested", inner)
    inner_id, old_id = inner.id, old.id
    del inner, old
    engine.gc(history=1, grace=NOW)
    assert dict(engine.tags()["first"]) == states[0]
    assert dict(branch.head.nested("nested")) == dict(engine.snapshot(inner_id))
    assert engine.snapshot(old_id).id == old_id
    engine.delete_tag("first")
    engine.gc(history=1, grace=NOW)
    assert is_gone(engine, old_id) and not is_gone(engine, inner_id)
    assert engine.check().ok


def test_what_this_process_holds_is_kept(engine: helios_shm.Engine) -> None:
    branch = engine.branch("main")
    grow(branch, 3)
    snapshot = engine.snapshot(detached(engine, "snapshot"))
    workspace = engine.snapshot(detached(engine, "workspace")).fork()
    workspace["own"] = b"edit"
    commit = branch.at(1)
    engine.gc(history=1, grace=NOW)
    assert snapshot["snapshot/3"].startswith(b"snapshot 3")
    assert len(dict(commit.snapshot)) > 0
    assert len(dict(workspace)) == 31
    assert len(dict(workspace.commit().snapshot)) == 31
    ids = [snapshot.id, commit.snapshot.id]
    del snapshot, workspace, commit
    engine.gc(history=1, grace=NOW)
    assert all(is_gone(engine, id) for id in ids)
    assert engine.check().ok


def test_what_is_younger_than_the_grace_is_kept(engine: helios_shm.Engine) -> None:
    id = detached(engine, "young")
    engine.sync()
    engine.gc()
    assert not is_gone(engine, id)
    engine.gc(grace=timedelta(days=400_000))
    assert not is_gone(engine, id)
    engine.gc(grace=NOW)
    assert is_gone(engine, id)


def clock_set_back(path: Path, seconds: int) -> StorePaths:
    """Let a store that nobody has open look as if its packs were so much older."""
    paths = until_left(path)
    writer = l2.Writer(paths, sync=False)
    writer.draw_epoch()
    with writer.transaction() as batch:
        ticks = batch.clock().ticks
        assert ticks
        before = [(time - seconds * SECOND, number) for time, number in ticks]
        later = [(before[-1][0] + n * HORIZON_NS, batch.next_pack) for n in (1, 2)]
        batch.put_clock(Clock((*before, *later)))
    writer.close()
    return paths


def test_what_is_written_again_does_not_lean_on_what_is_older_than_the_grace(store_path: Path) -> None:
    """Written twice and stored once, a young state would lie among the old ones, and go with them."""
    with helios_shm.open(store_path) as engine:
        id = detached(engine, "again")
        engine.sync()
    clock_set_back(store_path, 7200)
    with helios_shm.open(store_path) as engine:
        assert detached(engine, "again") == id
        engine.sync()
        engine.gc(grace=timedelta(hours=1))
        assert not is_gone(engine, id)
        assert len(dict(engine.snapshot(id))) == 30
    clock_set_back(store_path, 7200)
    with helios_shm.open(store_path) as engine:
        engine.gc(grace=timedelta(hours=1))
        assert is_gone(engine, id), "older than the grace, and nobody's"


def test_what_is_written_again_at_once_is_stored_once(store_path: Path) -> None:
    sizes = []
    for _ in range(2):
        with helios_shm.open(store_path) as engine:
            detached(engine, "again")
        nodes, values, _ = stored(until_left(store_path))
        sizes.append((len(nodes), len(values), sum(1 for _ in rows_of(store_path))))
    assert sizes[0] == sizes[1]


def rows_of(path: Path) -> Iterator[bytes]:
    """The ids of all rows, dead ones included."""
    writer = l2.Writer(StorePaths(path), sync=False)
    try:
        for _, pack in writer.packs_between(0, writer.newest_pack()):
            yield from (l2.pack_id(pack, row) for row in range(l2.pack_count(pack)))
    finally:
        writer.close()


# ---- what goes ----


def test_a_deleted_branch_keeps_nothing(engine: helios_shm.Engine) -> None:
    branch = engine.branch("gone")
    grow(branch, 3)
    ids = [commit.snapshot.id for commit in branch.log()]
    branch.delete()
    engine.gc(grace=NOW)
    assert all(is_gone(engine, id) for id in ids)
    with pytest.raises(helios_shm.NotFoundError):
        _ = branch.last_commit
    assert engine.check().ok
    states = grow(branch, 2, seed=5)
    assert [dict(commit.snapshot) for commit in branch.log()] == states[::-1]
    engine.gc(grace=NOW)
    assert [dict(commit.snapshot) for commit in branch.log()] == states[::-1]
    assert engine.check().ok


def test_only_what_can_be_reached_is_left(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        grow(engine.branch("main"), 10)
        grow(engine.branch("other"), 10, seed=1)
        engine.branch("other").delete()
        for n in range(5):
            detached(engine, f"loose {n}")
        engine.sync()
        engine.gc(history=4, grace=NOW)
        nodes, values = living(engine, roots_of(engine))
        engine.sync()
    kept_nodes, kept_values, _ = stored(until_left(store_path))
    assert (kept_nodes, kept_values) == (nodes, values)


def test_the_disk_gets_its_room_back(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        branch = engine.branch("main")
        for n in range(12):
            put(
                branch,
                {f"{n}/{i}": os.urandom(900) for i in range(1000)} | {f"large/{n}": os.urandom(300_000)},
            )
        branch.restore(engine.snapshot(put(engine.branch("small"), {"little": b"left"}).snapshot.id))
        engine.sync()
        before = used_bytes(store_path)
        would = engine.gc(history=1, grace=NOW, dry_run=True)
        assert used_bytes(store_path) == before and len(list(branch.log())) == 13
        report = engine.gc(history=1, grace=NOW)
        after = used_bytes(store_path)
        assert after < before // 10
        assert report.freed_bytes >= 12 * 1_200_000 and report.large_values_deleted == 12
        assert abs(would.freed_bytes - report.freed_bytes) < 10_000
        assert dict(branch.head) == {"little": b"left"}
        assert not [path for path in (store_path / "blobs").rglob("*") if path.is_file()]
        assert engine.check().ok
    with helios_shm.open(store_path) as engine:
        assert dict(engine.branch("main").head) == {"little": b"left"}


def test_packs_that_mostly_live_keep_their_dead_rows_and_do_not_give_them_out(store_path: Path) -> None:
    with helios_shm.open(store_path, l1_bytes=RING_BYTES) as engine:
        engine.sync()
        with engine.branch("main").transaction() as ws:
            ws.update({f"{i}": os.urandom(200) for i in range(400)})
        loose = detached(engine, "loose")
        engine.sync()
        engine.gc(grace=NOW)
        assert is_gone(engine, loose)
        assert detached(engine, "loose") == loose, "a state is written again"
        engine.sync()
        assert len(dict(engine.snapshot(loose))) == 30
        assert engine.check().ok
    with helios_shm.open(store_path) as engine:
        assert len(dict(engine.snapshot(loose))) == 30
        assert engine.check().ok


def test_states_that_were_collected_are_whole_when_they_are_written_again(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        branch = engine.branch("main")
        states = grow(branch, 6)
        engine.branch("empty", at=engine.empty)
        branch.delete()
        engine.gc(grace=NOW)
        for state in states:
            ws = engine.empty.fork()
            ws.update(state)
            assert dict(ws.commit().snapshot) == state
        assert dict(put(branch, states[-1]).snapshot) == states[-1]
        engine.sync()
        assert engine.check().ok
    until_left(store_path)
    with helios_shm.open(store_path) as engine:
        assert dict(engine.branch("main").head) == states[-1]


def test_a_large_value_that_was_collected_can_be_written_again(engine: helios_shm.Engine) -> None:
    value = os.urandom(400_000)
    branch = engine.branch("main")
    put(branch, {"large": value})
    branch.delete()
    engine.gc(grace=NOW)
    assert not [path for path in (engine.path / "blobs").rglob("*") if path.is_file()]
    put(branch, {"again": value})
    engine.sync()
    engine.gc(grace=NOW)
    assert branch.head["again"] == value
    assert engine.check().ok


def test_collections_of_nothing_change_nothing(engine: helios_shm.Engine) -> None:
    assert engine.gc(grace=NOW).freed_bytes == 0
    states = grow(engine.branch("main"), 3)
    for _ in range(3):
        report = engine.gc(grace=NOW)
    assert (report.freed_bytes, report.packs_deleted, report.safepoints) == (0, 0, 0)
    assert dict(engine.branch("main").head) == states[-1]


def test_an_ephemeral_store_is_collected_too() -> None:
    with helios_shm.open(None) as engine:
        states = grow(engine.branch("main"), 5)
        id = detached(engine, "loose")
        engine.sync()
        engine.gc(history=1, grace=NOW)
        assert is_gone(engine, id)
        assert dict(engine.branch("main").head) == states[-1]


# ---- what is refused ----


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"history": 0}, ValueError),
        ({"history": -1}, ValueError),
        ({"history": True}, TypeError),
        ({"history": 1.5}, TypeError),
        ({"history": "1"}, TypeError),
        ({"history": timedelta(seconds=-1)}, ValueError),
        ({"history": {"main": 0}}, ValueError),
        ({"history": {1: 1}}, TypeError),
        ({"history": {"": 1}}, ValueError),
        ({"grace": timedelta(seconds=-1)}, ValueError),
        ({"grace": 60}, TypeError),
        ({"dry_run": 1}, TypeError),
    ],
)
def test_bad_arguments_are_refused(
    engine: helios_shm.Engine, arguments: dict[str, object], error: type[Exception]
) -> None:
    grow(engine.branch("main"), 2)
    with pytest.raises(error):
        engine.gc(**arguments)  # type: ignore[arg-type]
    assert len(list(engine.branch("main").log())) == 2


def test_a_read_only_engine_collects_nothing(store_path: Path) -> None:
    helios_shm.open(store_path).close()
    with helios_shm.open(store_path, readonly=True) as engine, pytest.raises(helios_shm.ReadOnlyError):
        engine.gc()


def test_a_closed_engine_collects_nothing(store_path: Path) -> None:
    engine = helios_shm.open(store_path)
    engine.close()
    with pytest.raises(helios_shm.ClosedError):
        engine.gc()


def test_a_damaged_node_stops_a_collection_before_it_deletes(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        grow(engine.branch("main"), 3)
        root = bytes.fromhex(engine.branch("main").head.id)
        engine.sync()
    paths = until_left(store_path)
    data = (paths.db / "data.mdb").read_bytes()
    reader = l2.Reader(paths)
    entry = reader.get(root)
    reader.close()
    assert entry is not None
    at = data.index(entry.raw)
    with open(paths.db / "data.mdb", "r+b") as file:
        file.seek(at + 4)
        file.write(bytes([data[at + 4] ^ 1]))
    with helios_shm.open(store_path) as engine:
        with pytest.raises(helios_shm.CorruptError):
            engine.gc(history=1, grace=NOW)
        assert not engine.check().ok


# ---- the formats ----


def test_dead_rows_are_written_and_read() -> None:
    parts = [Part(1, b"\x05"), Part(4, b"")]
    data = parts_encode(7, parts)
    assert parts_decode(7, data) == parts
    assert part_at(parts, 0) is None and part_at(parts, 3) == parts[0] and part_at(parts, 4) == parts[1]
    assert [parts[0].has(row) for row in range(9)] == [True, False, True] + [False] * 6
    assert parts[1].has(10_000)
    for damaged in (data[:-1], data[1:], bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(helios_shm.CorruptError):
            parts_decode(7, damaged)
    with pytest.raises(helios_shm.CorruptError):
        parts_decode(8, data)


def test_the_clock_tells_young_packs_from_old_ones() -> None:
    clock, hour = Clock(), 3600 * SECOND
    assert clock.young_from(hour) == 1 and clock.recent_from(hour) is None and clock.is_due(0)
    for n in range(1, 2000):
        clock = clock.ticked(n * TICK_NS, n)
    now = 1999 * TICK_NS
    assert not clock.is_due(now + 1) and clock.is_due(now + TICK_NS) and clock.is_due(now - 1)
    assert len(clock.ticks) < 120
    for age in (0, 60 * SECOND, 900 * SECOND, 5000 * SECOND):
        young = clock.young_from(now - age)
        # Not younger than asked for, and not by much older.
        assert (
            (now - age - HORIZON_NS) // TICK_NS >= young >= (now - age - age // 3 - 2 * HORIZON_NS) // TICK_NS
        )
    recent = clock.recent_from(now)
    assert recent is not None and recent * TICK_NS >= now - HORIZON_NS
    assert Clock.decode(clock.encode()) == clock
    with pytest.raises(helios_shm.CorruptError):
        Clock.decode(clock.encode()[:-1])


def test_a_clock_that_is_set_back_forgets_the_time_that_is_yet_to_come() -> None:
    clock = Clock().ticked(100 * SECOND, 5).ticked(200 * SECOND, 9)
    assert clock.ticked(150 * SECOND, 11).ticks == ((100 * SECOND, 5), (150 * SECOND, 11))


def test_rules_of_history() -> None:
    assert rules_of(None) == ()
    assert rules_of(3) == (Rule("*", newest=3),)
    assert rules_of({"a*": timedelta(seconds=2), "b": 1}) == (
        Rule("a*", age_ns=2 * SECOND),
        Rule("b", newest=1),
    )


def test_packs_that_are_copied_have_the_form_of_others(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        grow(engine.branch("main"), 2)
        engine.sync()
    paths = until_left(store_path)
    writer = l2.Writer(paths, sync=False)
    try:
        for _, pack in writer.packs_between(0, writer.newest_pack()):
            rows = collector._living_rows(pack, Part(0, b"\0"))
            assert l2.pack_encode(rows) == bytes(pack)
    finally:
        writer.close()


def test_runs_of_pages() -> None:
    assert list(collector._runs([])) == []
    assert list(collector._runs([9, 3, 4, 5, 8, 1])) == [(1, 1), (3, 3), (8, 2)]
