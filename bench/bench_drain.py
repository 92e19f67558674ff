"""L2: what the coordinator does with one batch, the sync left out.

    child: puts nodes into the ring            this process: is the coordinator, one round when told to
           L1.put, 1000 x 600 B        ->      collect, pack (each checksum verified), one transaction, locator, marks

The round is the coordinator's own. The store is an ephemeral one, whose transactions are not synced, on tmpfs.
"""

from collections.abc import Iterator
from pathlib import Path

import helios_shm
from helios_shm import lifecycle
from helios_shm.coordinator import Coordinator
from helios_shm.l1 import L1
from helios_shm.store import StorePaths

from .baselines import lmdb_open
from .harness import Contender, Items, Row, Setting, Target, Values, compare, measure
from .states import attachment, directory
from .workers import Job, Worker

NODE_BYTES = 600
BATCH = 1000
FILL = 20_000  # nodes in one round while the store is filled


def putter(root: Path) -> Job:
    """The child: puts so many new values into the ring; None: leaves the store."""
    engine = helios_shm.open(root)
    l1, values = L1(attachment(engine)), Values(NODE_BYTES)

    def job(count: int) -> None:
        for value in values.take(count):
            l1.put(value)
        if count == 0:
            engine.close(sync=False)

    return job


def coordinate(root: Path) -> Coordinator:
    """Makes the store, and takes the coordinator's place before anybody else can."""
    paths = StorePaths.of(root)
    lifecycle.create_store(paths, ephemeral=True)
    lock = lifecycle.CoordinatorLock(paths)
    if not lock.take():
        raise RuntimeError("another coordinator was faster")
    return Coordinator(paths, lock)


class Drain:
    """The coordinator, the child that gives it work, and the same bytes in LMDB."""

    def __init__(self, coordinator: Coordinator, child: Worker, plain: Path, megabytes: int) -> None:
        self.coordinator, self.child = coordinator, child
        self.environment = lmdb_open(plain, megabytes=megabytes)
        self.values, self.number = Values(NODE_BYTES, seed=2), 0

    def put(self, count: int) -> Items:
        """Has the child publish so many nodes; the next round finds them."""
        self.child.ask(count)
        self.child.answer()
        return [count]

    def rounds(self, counts: Items) -> None:
        """One group commit for each."""
        for _ in counts:
            self.coordinator._try_round()

    def joined(self, count: int) -> Items:
        """As many bytes as so many nodes have, in one value."""
        return [b"".join(self.values.take(count))]

    def whole(self, values: Items) -> None:
        """Each value in a transaction of its own, under the next number."""
        for value in values:
            self.number += 1
            transaction = self.environment.begin(write=True)
            transaction.put(self.number.to_bytes(8, "big"), value, append=True)
            transaction.commit()

    def fill(self, rows: int) -> None:
        """Both stores, up to a million nodes; the locator has grown as far as it wants to."""
        for done in range(0, rows, FILL):
            count = min(FILL, rows - done)
            self.rounds(self.put(count))
            self.whole(self.joined(count))
            while self.coordinator.keeper.tend():
                pass
        held = self.coordinator.keeper.table.info().rows
        if held != rows:
            raise RuntimeError(f"{held} nodes in L2, {rows} were put")


def drain(setting: Setting) -> Iterator[Row]:
    """The puts, and what lies between rounds (growing the locator), are outside the clock."""
    rows = setting.scale(1_000_000, 5_000)
    with directory(setting.memory) as parent:
        coordinator = coordinate(parent / "store")
        with Worker(putter, parent / "store") as child:
            work = Drain(coordinator, child, parent / "plain", 256 + rows * 1200 // 1_000_000)
            work.fill(rows)
            contenders = [
                Contender("group commit", work.rounds, lambda _: work.put(BATCH)),
                Contender("py-lmdb, the same bytes as one value", work.whole, lambda _: work.joined(BATCH)),
            ]
            group, plain = measure(contenders, rounds=setting.scale(200, 5), calls=1, batch=1)
            work.environment.close()
            work.put(0)
        coordinator._leave()
    name = f"L2 group commit of {BATCH:,} new nodes of {NODE_BYTES} B into {rows:,}"
    note = "no sync, tmpfs, every checksum verified"
    yield compare(name, group, [plain], Target("<=", 1.4, plain.name), note=note)
