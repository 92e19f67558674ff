"""Every peer does what its row says: what it commits is what is read, here and in another process.

A peer that is not installed is skipped; one that is installed has to work.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.peers import (
    BATCHES,
    COMMITS,
    GETS,
    ITEMS,
    KEYS,
    PREFIX,
    PRIVATE,
    STORES,
    Absent,
    Lineup,
    Store,
    package,
)
from bench.workers import Worker

STATE = {f"perf/{number % 3:02d}/file_{number:07d}.dat": bytes([number]) * 48 for number in range(12)}
FIRST, SECOND, *_ = STATE


@pytest.fixture(params=STORES, ids=lambda kind: kind.name)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each peer, holding STATE."""
    with Lineup() as lineup:
        found = lineup.stores([request.param], Path("/dev/shm"))
        if not found:
            assert not lineup.skipped[0].installed, lineup.skipped[0].reason
            pytest.skip(lineup.skipped[0].reason)
        found[0].fill(STATE.items())
        yield found[0]
    place = found[0].place
    assert place is not None and not place.exists()


def test_what_is_committed_is_read(store: Store) -> None:
    works = store.works()
    works[COMMITS].run([(store.key(FIRST), b"1" * 48), (store.key(FIRST), b"2" * 48)])
    assert store.read(FIRST) == b"2" * 48
    assert store.read(SECOND) == STATE[SECOND]
    works[BATCHES].run([[(store.key(FIRST), b"3" * 48), (store.key(SECOND), b"4" * 48)]])
    assert (store.read(FIRST), store.read(SECOND)) == (b"3" * 48, b"4" * 48)


def test_every_work_runs_and_bears_the_name_of_its_peer(store: Store) -> None:
    works = store.works()
    assert {COMMITS, BATCHES, GETS} <= works.keys()
    assert all(label.startswith(store.name) for label, _ in works.values())
    works[GETS].run([store.key(path) for path in STATE])
    for work in works.keys() & {KEYS, ITEMS}:
        works[work].run([None])
    if PREFIX in works:
        works[PREFIX].run([store.key("perf/01/")])


def reader(kind: type[Store], address: Any) -> Callable[[str], bytes | None]:
    """The child: attaches, and reads what it is asked for."""
    store = kind.attached(address)
    if kind.name == "icechunk":
        store.rows = {path: row for row, path in enumerate(STATE)}  # type: ignore[attr-defined]
    return store.read


def test_another_process_reads_what_was_committed(store: Store) -> None:
    if not store.shared:
        pytest.skip(f"{store.name}: only the process that made an object names it")
    store.works()[COMMITS].run([(store.key(FIRST), b"5" * 48)])
    with Worker(reader, type(store), store.address) as child:
        child.ask(FIRST)
        assert child.answer() == b"5" * 48


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_change_leaves_the_state_alone(name: str) -> None:
    state = dict(STATE)
    try:
        run = PRIVATE[name](state)
    except Absent as absent:
        pytest.skip(str(absent))
    run([(FIRST, b"6" * 48)])
    assert state == STATE


def test_a_peer_that_is_not_installed_is_noted_and_left_out() -> None:
    class Nowhere(Store):
        name = "nowhere"

        def connect(self, address: str) -> None:
            package("no_such_package_anywhere")

        fill = read = works = None  # type: ignore[assignment]

    with Lineup() as lineup:
        assert lineup.stores([Nowhere], Path("/dev/shm")) == []
    (skipped,) = lineup.skipped
    assert (skipped.name, skipped.installed) == ("nowhere", False)
    assert skipped.reason == "no_such_package_anywhere is not installed"


def test_a_peer_that_breaks_is_noted_as_installed(tmp_path: Path) -> None:
    class Broken(Store):
        name = "broken"

        def connect(self, address: str) -> None:
            raise OSError("it does not start")

        fill = read = works = None  # type: ignore[assignment]

    with Lineup() as lineup:
        assert lineup.seat(Broken, tmp_path) is None
    assert [(each.installed, each.reason) for each in lineup.skipped] == [
        (True, "OSError: it does not start")
    ]
    assert list(tmp_path.iterdir()) == []
