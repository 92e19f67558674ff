"""What is read and written of L1, object by object: drawn from a distribution, or recorded from a search.

    Trace.batches:  [[~0, ~1, ...], [5, 5, 17], ...]        n: object n is read    ~n: it is put

A batch is what one process does in its turn. An object is a value of a fixed size, whose bytes follow from its number.

Invariants. The same arguments give the same trace, on any machine. An object is put before it is read, once.
`lru_hits` is exact: the least recently used entry goes first, whatever it is, until the rest fits.

Used by bench_cache.py.
"""

import bisect
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from blake3 import blake3

import helios_shm

BATCH = 64
SIZES = (500, 4000)  # bytes of an object, below where it would be compressed


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    sizes: Sequence[int]  # bytes, by object
    batches: Sequence[Sequence[int]]

    @property
    def reads(self) -> int:
        return sum(each >= 0 for batch in self.batches for each in batch)

    def parted(self, share: float) -> tuple["Trace", "Trace"]:
        """The first `share` of it, and the rest."""
        at = int(len(self.batches) * share)
        return replace(self, batches=self.batches[:at]), replace(self, batches=self.batches[at:])


def content(number: int, size: int) -> bytes:
    """The bytes of an object: random, so that nothing is gained by compressing them."""
    return blake3(number.to_bytes(8, "little")).digest(length=size)


def batched(events: Sequence[int]) -> list[Sequence[int]]:
    return [events[start : start + BATCH] for start in range(0, len(events), BATCH)]


def sizes_of(total: int, seed: int) -> list[int]:
    """Sizes of objects that are `total` bytes together."""
    rng = random.Random(seed)
    sizes: list[int] = []
    while total > 0:
        sizes.append(rng.randrange(*SIZES))
        total -= sizes[-1]
    return sizes


def filling(sizes: Sequence[int]) -> Trace:
    """Puts every object once."""
    return Trace("filling", sizes, batched([~number for number in range(len(sizes))]))


def zipf_reads(alpha: float, objects: int, reads: int, seed: int) -> list[int]:
    """Objects, the k-th most popular with probability proportional to 1 / k ** alpha; who is popular is drawn too."""
    rng = random.Random(seed)
    names = list(range(objects))
    rng.shuffle(names)
    sums = list(itertools.accumulate(1 / rank**alpha for rank in range(1, objects + 1)))
    return [names[bisect.bisect(sums, rng.random() * sums[-1])] for _ in range(reads)]


def zipf(alpha: float, sizes: Sequence[int], reads: int) -> Trace:
    events = zipf_reads(alpha, len(sizes), reads, seed=round(alpha * 10))
    return Trace(f"Zipf {alpha}", sizes, batched(events))


def scanned(sizes: Sequence[int], reads: int, pause: int, length: int) -> Trace:
    """Zipf 1.0, and after every `pause` reads `length` objects in sequence, from where the last scan ended."""
    at, events = 0, zipf_reads(1.0, len(sizes), reads, seed=77)
    mixed: list[int] = []
    for start in range(0, reads, pause):
        mixed += events[start : start + pause]
        mixed += [(at + step) % len(sizes) for step in range(length)]
        at += length
    return Trace("Zipf 1.0 amid scans", sizes, batched(mixed))


# ---- the recorded one ----------------------------------------------------------------------------------------------

DOCUMENTS = 64  # of a state
DOCUMENT_SIZES = (1000, 4000)
ACTIONS = 6
EXPLORATION = 0.7


class Recorder:
    """Notes the documents that are read and put as objects."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.batches: list[list[int]] = []
        self._numbers: dict[bytes, int] = {}

    def begin(self) -> None:
        """Of the next process's turn."""
        self.batches.append([])

    def write(self, number: int, size: int) -> bytes:
        value = content(number, size)
        self._numbers[value] = len(self.sizes)
        self.batches[-1].append(~len(self.sizes))
        self.sizes.append(size)
        return value

    def read(self, value: bytes) -> bytes:
        self.batches[-1].append(self._numbers[value])
        return value


@dataclass(slots=True, eq=False)
class Node:
    """A state of the search, and what is known of it."""

    snapshot: helios_shm.Snapshot
    depth: int
    visits: int = 0
    value: float = 0.0
    children: list["Node"] = field(default_factory=list)

    def bound(self, parent_visits: int) -> float:
        return self.value / self.visits + EXPLORATION * math.sqrt(math.log(parent_visits) / self.visits)


def path_of(document: int) -> str:
    return f"state/{document:03d}"


class Search:
    """Monte Carlo tree search (UCT) over snapshots of documents.

    Expanding a node by an action reads the documents that the action is about and those that it leads to, writes two of
    them, commits, and judges the new state by some more: a rollout. What a document says is random, so that good states
    have good successors (most of their documents are the same), and the search goes deep where it is good.
    """

    def __init__(self, engine: helios_shm.Engine, seed: int) -> None:
        self.recorder = Recorder()
        self._rng = random.Random(seed)
        self.recorder.begin()
        workspace = engine.empty.fork()
        for document in range(DOCUMENTS):
            workspace[path_of(document)] = self._write()
        self._root = Node(workspace.commit().snapshot, 0)

    def _write(self) -> bytes:
        return self.recorder.write(self._rng.getrandbits(60), self._rng.randrange(*DOCUMENT_SIZES))

    def step(self) -> None:
        """Select, expand, judge, back up."""
        path = [self._root]
        while len(path[-1].children) == ACTIONS:
            node = path[-1]
            path.append(max(node.children, key=lambda child: child.bound(node.visits)))
        self.recorder.begin()
        child = self._expand(path[-1], len(path[-1].children))
        path[-1].children.append(child)
        value = self._judge(child)
        for node in [*path, child]:
            node.visits += 1
            node.value += value

    def _expand(self, parent: Node, action: int) -> Node:
        about = [(7 * parent.depth + 11 * action + 5 * step) % DOCUMENTS for step in range(6)]
        for document in about:
            self.recorder.read(parent.snapshot[path_of(document)])
        workspace = parent.snapshot.fork()
        for document in about[:2]:
            workspace[path_of(document)] = self._write()
        return Node(workspace.commit().snapshot, parent.depth + 1)

    def _judge(self, node: Node) -> float:
        chosen = self._rng.sample(range(DOCUMENTS), 10)
        return sum(self.recorder.read(node.snapshot[path_of(each)])[0] for each in chosen) / 2550


def searched(engine: helios_shm.Engine, expansions: int) -> Trace:
    """The trace of a search in this store: each expansion is the turn of one of its processes."""
    search = Search(engine, seed=1)
    for _ in range(expansions):
        search.step()
    return Trace("MCTS, recorded", search.recorder.sizes, search.recorder.batches)


# ---- what it is put beside -------------------------------------------------------------------------------------------


class Lru:
    """Exact least recently used, of so many bytes; `charge` is what an object of a size takes of them."""

    def __init__(self, capacity: int, charge: Callable[[int], int]) -> None:
        self._capacity = capacity
        self._charge = charge
        self._used = 0
        self._held: OrderedDict[int, int] = OrderedDict()

    def _enter(self, number: int, size: int) -> None:
        self._held[number] = self._charge(size)
        self._used += self._held[number]
        while self._used > self._capacity:
            self._used -= self._held.popitem(last=False)[1]

    def hits(self, trace: Trace) -> int:
        """How many of the trace's reads it can serve; it goes on from where it was."""
        found = 0
        for event in _events(trace):
            number = event if event >= 0 else ~event
            if number in self._held:
                self._held.move_to_end(number)
                found += event >= 0
            else:
                self._enter(number, trace.sizes[number])
        return found


def _events(trace: Trace) -> Iterator[int]:
    return itertools.chain.from_iterable(trace.batches)
