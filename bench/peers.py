"""The peers: other libraries that do the same work, each used as its own documentation advises.

    with Lineup() as lineup:                          not installed: noted in lineup.skipped, and left out
        stores = lineup.stores((Lmdb, Redis, Git), setting.memory)
        for store in stores:
            store.fill(pairs)
        contenders = [store.contender(COMMITS, inputs) for store in stores if COMMITS in store.works()]
        ...
        yield compare(..., skipped=lineup.skipped)

A Store holds one state of path -> bytes. What it can do is in `works()`, a Run for measure() under each name:

    COMMITS   items (key, value)        one changed key, published to everybody, for each
    BATCHES   items [(key, value), ..]  many changed keys at once, published to everybody, for each
    GETS      items key                 one read for each
    KEYS      items anything            one walk over all keys for each
    ITEMS     items anything            one walk over all keys and values, copied, for each
    PREFIX    items prefix              one walk over the keys and values below it for each

Invariants:
- A work that a peer cannot do, or cannot do in one step, is not in `works()`: it is not listed there.
- Every label begins with the peer's name, so that a target `redis*` finds it, there or skipped.
- Each works in a directory of its own below the one that it is given; leaving it removes that directory, and
  ends the processes and removes the shared memory that it made.
- Keys are made by `key(path)` outside the clock. Another process attaches: `Kind.attached(store.address)`.
- Packages are imported here only, by `package`, when a peer is opened: none of them need be installed.
"""

import collections
import copy
import importlib
import multiprocessing
import os
import pickle
import shutil
import sqlite3
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias, TypeVar

import lmdb

from .baselines import lmdb_batches, lmdb_commits, lmdb_items, lmdb_keys, lmdb_open, lmdb_prefix
from .harness import Contender, Items, Run, Skipped, idle_pair, idle_single, pairs_of

Pairs: TypeAlias = Iterable[tuple[str, bytes]]
Work: TypeAlias = Literal["commits", "batches", "gets", "keys", "items", "prefix"]
Peer = TypeVar("Peer", bound=AbstractContextManager[Any])
COMMITS: Work = "commits"
BATCHES: Work = "batches"
GETS: Work = "gets"
KEYS: Work = "keys"
ITEMS: Work = "items"
PREFIX: Work = "prefix"
SHARED_MEMORY = Path("/dev/shm")
START_SECONDS_MAX = 30.0


class Absent(Exception):
    """The package or program is not installed."""


def package(name: str) -> Any:
    """The module; Absent when it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Absent(f"{error.name} is not installed") from error


def program(name: str) -> str:
    """The path of an executable; Absent when there is none."""
    found = shutil.which(name)
    if not found:
        raise Absent(f"{name} is not installed")
    return found


def drain(iterator: Iterable[object]) -> None:
    """Walks to the end, in C."""
    collections.deque(iterator, maxlen=0)


class Doing(NamedTuple):
    """One work as a peer does it."""

    label: str
    run: Run


class Store(AbstractContextManager["Store"], ABC):
    """A peer that holds one state. `nbytes` is about what it will hold; `durable` syncs every commit."""

    name: ClassVar[str]
    shared: ClassVar[bool] = True  # another process can attach
    address: Any  # picklable: what another process attaches to
    place: Path | None = None  # its own directory; None in a process that attached

    def __init__(self, parent: Path, *, durable: bool = False, nbytes: int = 0) -> None:
        self.parent, self.durable, self.nbytes = parent, durable, nbytes

    @classmethod
    def attached(cls, address: Any, *, durable: bool = False) -> Self:
        """The store that another process made; `close` it."""
        store = cls(Path(), durable=durable)
        store.connect(address)
        return store

    def __enter__(self) -> Self:
        self.place = Path(tempfile.mkdtemp(prefix="helios-bench-", dir=self.parent))
        try:
            self.address = self.start(self.place)
            self.connect(self.address)
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Ends everything; what could not even start is ended too."""
        try:
            self.close()
        finally:
            if self.place:
                self.stop()
                shutil.rmtree(self.place, ignore_errors=True)

    def start(self, place: Path) -> Any:
        """Makes it, or its server, in `place`; returns the address."""
        return str(place)

    @abstractmethod
    def connect(self, address: Any) -> None:
        """Opens it at the address, in the process that made it or in another."""

    def close(self) -> None:
        """This process is done with it."""

    def stop(self) -> None:
        """Nobody uses it any more."""

    def key(self, path: str) -> Any:
        """The key as the peer wants it."""
        return path

    @abstractmethod
    def fill(self, pairs: Pairs) -> None:
        """Puts them all, outside the clock."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """The value as everybody sees it now; to check, not to measure."""

    @abstractmethod
    def works(self) -> dict[Work, Doing]:
        """What it can do."""

    def contender(self, work: Work, inputs: Callable[[int], Items], **turns: int) -> Contender:
        """Itself in a comparison; `inputs` has keys made by `key`, `turns` are Contender's calls, batch, every."""
        label, run = self.works()[work]
        return Contender(label, run, inputs, idle_pair if work == COMMITS else idle_single, **turns)


class Lineup(ExitStack):
    """The peers of one comparison, closed with it; those that cannot take part are in `skipped`."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[Skipped] = []

    def seat(self, make: Callable[..., Peer], *arguments: Any, name: str = "", **options: Any) -> Peer | None:
        """`make(...)`, entered; None and a note if it is not installed or fails to start."""
        name = name or getattr(make, "name", "") or make.__name__
        try:
            peer = make(*arguments, **options)
            self.enter_context(peer)
        except Absent as error:
            self.skipped.append(Skipped(name, str(error)))
        except Exception as error:
            self.skipped.append(Skipped(name, f"{type(error).__name__}: {error}", installed=True))
        else:
            return peer
        return None

    def stores(
        self, kinds: Sequence[type[Store]], parent: Path, *, durable: bool = False, nbytes: int = 0
    ) -> list[Store]:
        """Those of them that could be opened."""
        seated = [self.seat(kind, parent, durable=durable, nbytes=nbytes) for kind in kinds]
        return [store for store in seated if store]

    def filled(
        self, kinds: Sequence[type[Store]], parent: Path, keys: int, size: int, *, durable: bool = False
    ) -> list[Store]:
        """The same, holding the state of so many keys."""
        stores = self.stores(kinds, parent, durable=durable, nbytes=keys * (size + 400))
        for each in stores:
            each.fill(pairs_of(keys, size))
        return stores


class Lmdb(Store):
    """py-lmdb: explicit begin and commit, views when reading one value, copies when walking."""

    name = "py-lmdb"

    def connect(self, address: str) -> None:
        megabytes = 64 + self.nbytes * 4 // 1_000_000 if self.place else 0  # 0: as large as it was made
        self.environment = lmdb_open(Path(address), megabytes=megabytes, sync=self.durable)
        self.view: lmdb.Transaction | None = None

    def close(self) -> None:
        if self.view:
            self.view.abort()
        self.environment.close()

    def key(self, path: str) -> bytes:
        return path.encode()

    def fill(self, pairs: Pairs) -> None:
        with self.environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti([(path.encode(), value) for path, value in pairs])

    def read(self, path: str) -> bytes | None:
        with self.environment.begin() as transaction:
            return transaction.get(path.encode())

    def get(self, items: Items) -> None:
        """From what was committed before its first call: an open transaction keeps every page that it may read."""
        if not self.view:
            self.view = self.environment.begin(buffers=True)
        get = self.view.get
        for key in items:
            get(key)

    def works(self) -> dict[Work, Doing]:
        sync = "synced" if self.durable else "no sync, tmpfs"
        return {
            COMMITS: Doing(f"py-lmdb begin+put+commit, {sync}", lmdb_commits(self.environment)),
            BATCHES: Doing(f"py-lmdb begin+putmulti+commit, {sync}", lmdb_batches(self.environment)),
            GETS: Doing("py-lmdb get, view, open transaction", self.get),
            KEYS: Doing("py-lmdb cursor, keys only", lmdb_keys(self.environment)),
            ITEMS: Doing("py-lmdb cursor, copies", lmdb_items(self.environment)),
            PREFIX: Doing("py-lmdb set_range + cursor, copies", lmdb_prefix(self.environment)),
        }


class Sqlite(Store):
    """sqlite3: write-ahead log, one table keyed by path; synchronous FULL if durable, otherwise OFF."""

    name = "sqlite3"
    PUT = "INSERT OR REPLACE INTO state VALUES (?, ?)"
    GET = "SELECT value FROM state WHERE path = ?"

    def start(self, place: Path) -> str:
        return str(place / "state.db")

    def connect(self, address: str) -> None:
        self.database = sqlite3.connect(address, isolation_level=None, timeout=60.0)
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'OFF'}")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS state (path TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID"
        )

    def close(self) -> None:
        self.database.close()

    def fill(self, pairs: Pairs) -> None:
        self.many([list(pairs)])

    def read(self, path: str) -> bytes | None:
        row = self.database.execute(self.GET, (path,)).fetchone()
        return row[0] if row else None

    def one(self, items: Items) -> None:
        execute, put = self.database.execute, self.PUT
        for pair in items:
            execute(put, pair)

    def many(self, items: Items) -> None:
        execute = self.database.execute
        for pairs in items:
            execute("BEGIN IMMEDIATE")
            self.database.executemany(self.PUT, pairs)
            execute("COMMIT")

    def get(self, items: Items) -> None:
        execute, get = self.database.execute, self.GET
        for path in items:
            execute(get, (path,)).fetchone()

    def walk(self, query: str) -> Run:
        def run(items: Items) -> None:
            for _ in items:
                drain(self.database.execute(query))

        return run

    def prefix(self, items: Items) -> None:
        query = "SELECT path, value FROM state WHERE path >= ? AND path < ? ORDER BY path"
        for prefix in items:
            drain(self.database.execute(query, (prefix, prefix + "\U0010ffff")))

    def works(self) -> dict[Work, Doing]:
        sync = "FULL" if self.durable else "OFF"
        return {
            COMMITS: Doing(f"sqlite3 INSERT OR REPLACE, WAL, {sync}", self.one),
            BATCHES: Doing(f"sqlite3 BEGIN, executemany, COMMIT, WAL, {sync}", self.many),
            GETS: Doing("sqlite3 SELECT", self.get),
            KEYS: Doing("sqlite3 SELECT path ORDER BY", self.walk("SELECT path FROM state ORDER BY path")),
            ITEMS: Doing("sqlite3 SELECT * ORDER BY", self.walk("SELECT * FROM state ORDER BY path")),
            PREFIX: Doing("sqlite3 SELECT of a range", self.prefix),
        }


class Redis(Store):
    """redis-py over a Unix socket to a redis-server of its own; every write synced (AOF) if durable."""

    name = "redis"
    server: subprocess.Popen[bytes] | None = None
    client: Any = None

    def start(self, place: Path) -> str:
        package("redis")
        self.sockets = Path(
            tempfile.mkdtemp(prefix="helios-bench-", dir=SHARED_MEMORY)
        )  # a path of 107 bytes at most
        address = str(self.sockets / "redis")
        keep = ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        command = [program("redis-server"), "--port", "0", "--unixsocket", address, "--dir", str(place)]
        self.server = subprocess.Popen([*command, "--save", "", *keep], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.answers(address):
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server does not start")
            time.sleep(0.01)
        return address

    def answers(self, address: str) -> bool:
        redis = package("redis")
        try:
            with redis.Redis(unix_socket_path=address) as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False

    def connect(self, address: str) -> None:
        self.client = package("redis").Redis(unix_socket_path=address)

    def close(self) -> None:
        if self.client:
            self.client.close()

    def stop(self) -> None:
        if self.server:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(getattr(self, "sockets", ""), ignore_errors=True)

    def key(self, path: str) -> bytes:
        return path.encode()

    def fill(self, pairs: Pairs) -> None:
        whole = list(pairs)
        for at in range(0, len(whole), 1000):
            self.client.mset(dict(whole[at : at + 1000]))

    def read(self, path: str) -> bytes | None:
        value: bytes | None = self.client.get(path)
        return value

    def one(self, items: Items) -> None:
        put = self.client.set
        for key, value in items:
            put(key, value)

    def many(self, items: Items) -> None:
        put = self.client.mset
        for pairs in items:
            put(dict(pairs))

    def get(self, items: Items) -> None:
        get = self.client.get
        for key in items:
            get(key)

    def works(self) -> dict[Work, Doing]:
        sync = ", appendfsync always" if self.durable else ""
        return {
            COMMITS: Doing(f"redis SET{sync}", self.one),
            BATCHES: Doing(f"redis MSET{sync}", self.many),
            GETS: Doing("redis GET", self.get),
        }


class Mapping(Store):
    """What Manager's dict and UltraDict share: both are used like a dict, `self.state`."""

    state: Any = None

    def fill(self, pairs: Pairs) -> None:
        self.state.update(dict(pairs))

    def read(self, path: str) -> bytes | None:
        value: bytes | None = self.state.get(path)
        return value

    def one(self, items: Items) -> None:
        state = self.state
        for path, value in items:
            state[path] = value

    def many(self, items: Items) -> None:
        state = self.state
        for pairs in items:
            state.update(pairs)

    def get(self, items: Items) -> None:
        state = self.state
        for path in items:
            state[path]

    def keys(self, items: Items) -> None:
        for _ in items:
            drain(self.state.keys())

    def items(self, items: Items) -> None:
        for _ in items:
            drain(self.state.items())

    def works(self) -> dict[Work, Doing]:
        return {
            COMMITS: Doing(f"{self.name} d[path] = value", self.one),
            BATCHES: Doing(f"{self.name} d.update", self.many),
            GETS: Doing(f"{self.name} d[path]", self.get),
            KEYS: Doing(f"{self.name} d.keys()", self.keys),
            ITEMS: Doing(f"{self.name} d.items()", self.items),
        }


class Manager(Mapping):
    """multiprocessing.Manager().dict(): a server process; every operation is a message to it."""

    name = "multiprocessing.Manager"
    manager: Any = None

    def start(self, place: Path) -> Any:
        self.manager = multiprocessing.get_context("spawn").Manager()
        return self.manager.dict()

    def connect(self, address: Any) -> None:
        self.state = address

    def stop(self) -> None:
        if self.manager:
            self.manager.shutdown()


class UltraDict(Mapping):
    """UltraDict2: a dict in each process, changes streamed through shared memory.

    The stream is large enough that full dumps are rare; the lock is the one that independent processes need.
    """

    name = "UltraDict2"
    STREAM_BYTES = 64 << 20

    def start(self, place: Path) -> str:
        made = package("UltraDict2").UltraDict(
            create=True, buffer_size=self.STREAM_BYTES, shared_lock=True, auto_unlink=True
        )
        self.state = made
        return str(made.name)

    def connect(self, address: str) -> None:
        if self.state is None:
            self.state = package("UltraDict2").UltraDict(name=address, create=False, shared_lock=True)

    def close(self) -> None:
        if self.state is not None:
            self.state.close(unlink=self.place is not None)

    def many(self, items: Items) -> None:
        state = self.state
        for pairs in items:
            with state.lock:
                state.update(pairs)


class Diskcache(Store):
    """diskcache.Cache: SQLite underneath; synchronous FULL if durable, otherwise OFF; nothing is evicted."""

    name = "diskcache"
    cache: Any = None

    def connect(self, address: str) -> None:
        self.cache = package("diskcache").Cache(
            address, eviction_policy="none", sqlite_synchronous=2 if self.durable else 0
        )

    def close(self) -> None:
        if self.cache is not None:
            self.cache.close()

    def fill(self, pairs: Pairs) -> None:
        self.many([pairs])

    def read(self, path: str) -> bytes | None:
        value: bytes | None = self.cache.get(path)
        return value

    def one(self, items: Items) -> None:
        cache = self.cache
        for path, value in items:
            cache[path] = value

    def many(self, items: Items) -> None:
        cache = self.cache
        for pairs in items:
            with cache.transact():
                for path, value in pairs:
                    cache[path] = value

    def get(self, items: Items) -> None:
        cache = self.cache
        for path in items:
            cache[path]

    def works(self) -> dict[Work, Doing]:
        return {
            COMMITS: Doing("diskcache c[path] = value", self.one),
            BATCHES: Doing("diskcache transact, c[path] = value", self.many),
            GETS: Doing("diskcache c[path]", self.get),
        }


Tree: TypeAlias = dict[str, Any]  # name -> blob, or another Tree


class Git(Store):
    """pygit2 (libgit2): a blob for each value, a tree for each directory on the path, a commit on main."""

    name = "pygit2"

    def connect(self, address: str) -> None:
        self.git = package("pygit2")
        if self.place:
            self.git.init_repository(address, bare=True)
        if self.durable:
            self.git.option(self.git.enums.Option.ENABLE_FSYNC_GITDIR, 1)
        self.repository = self.git.Repository(address)
        self.author = self.git.Signature("bench", "bench@localhost")

    def close(self) -> None:
        if self.durable and hasattr(self, "git"):
            self.git.option(self.git.enums.Option.ENABLE_FSYNC_GITDIR, 0)

    def fill(self, pairs: Pairs) -> None:
        self.many([pairs])

    def root(self) -> Any:
        """The tree of the commit that everybody sees."""
        return self.repository.references["refs/heads/main"].peel(self.git.Tree)

    def read(self, path: str) -> bytes | None:
        value: bytes = (self.root() / path).data
        return value

    def written(self, tree: Any, edits: Tree) -> Any:
        """The id of `tree` with the edits in it."""
        builder = self.repository.TreeBuilder(tree) if tree else self.repository.TreeBuilder()
        for name, edit in edits.items():
            if isinstance(edit, dict):
                below = tree[name] if tree and name in tree else None
                builder.insert(name, self.written(below, edit), self.git.enums.FileMode.TREE)
            else:
                builder.insert(name, self.repository.create_blob(edit), self.git.enums.FileMode.BLOB)
        return builder.write()

    def many(self, items: Items) -> None:
        for pairs in items:
            edits: Tree = {}
            for path, value in pairs:
                *above, name = path.split("/")
                at = edits
                for directory in above:
                    at = at.setdefault(directory, {})
                at[name] = value
            head = self.repository.references.get("refs/heads/main")
            tree = head.peel(self.git.Tree) if head else None
            parents = [head.target] if head else []
            self.repository.create_commit(
                "refs/heads/main", self.author, self.author, "bench", self.written(tree, edits), parents
            )

    def one(self, items: Items) -> None:
        for pair in items:
            self.many([[pair]])

    def get(self, items: Items) -> None:
        root = self.root()
        for path in items:
            _ = (root / path).data

    def works(self) -> dict[Work, Doing]:
        return {
            COMMITS: Doing("pygit2 blob + trees + commit", self.one),
            BATCHES: Doing("pygit2 blobs + trees + commit", self.many),
            GETS: Doing("pygit2 (tree / path).data", self.get),
        }


class Prolly(Store):
    """ProllyTree's VersionedKvStore, nodes in files unless everything stays in one process; commits in git."""

    name = "ProllyTree"

    def start(self, place: Path) -> str:
        package("prollytree")
        for words in (
            ["init", "-q"],
            ["config", "user.name", "bench"],
            ["config", "user.email", "bench@localhost"],
        ):
            subprocess.run([program("git"), "-C", str(place), *words], check=True)
        (place / "state").mkdir()
        return str(place / "state")

    def connect(self, address: str) -> None:
        prolly = package("prollytree")
        backend = prolly.StorageBackend.File
        make = prolly.VersionedKvStore if self.place else prolly.VersionedKvStore.open
        self.state = make(address, backend)

    def key(self, path: str) -> bytes:
        return path.encode()

    def fill(self, pairs: Pairs) -> None:
        for path, value in pairs:
            self.state.insert(path.encode(), value)
        self.state.commit("fill")

    def read(self, path: str) -> bytes | None:
        value: bytes | None = self.state.get(path.encode())
        return value

    def one(self, items: Items) -> None:
        state = self.state
        for key, value in items:
            state.update(key, value)
            state.commit("one")

    def many(self, items: Items) -> None:
        state = self.state
        for pairs in items:
            for key, value in pairs:
                state.update(key, value)
            state.commit("many")

    def get(self, items: Items) -> None:
        get = self.state.get
        for key in items:
            get(key)

    def works(self) -> dict[Work, Doing]:
        return {
            COMMITS: Doing("ProllyTree update + commit", self.one),
            BATCHES: Doing("ProllyTree updates + commit", self.many),
            GETS: Doing("ProllyTree get", self.get),
        }


class Icechunk(Store):
    """icechunk over zarr: an array with one chunk a value, in the order of filling; a session for each commit."""

    name = "icechunk"

    def connect(self, address: str) -> None:
        icechunk = package("icechunk")
        self.zarr, self.numpy = package("zarr"), package("numpy")
        icechunk.set_logs_filter("error")  # it warns of concurrent commits to files; there are none
        storage = icechunk.local_filesystem_storage(address)
        self.repository = (icechunk.Repository.create if self.place else icechunk.Repository.open)(storage)
        self.rows: dict[str, int] = {}

    def key(self, path: str) -> int:
        return self.rows[path]

    def fill(self, pairs: Pairs) -> None:
        whole = dict(pairs)
        self.rows = {path: row for row, path in enumerate(whole)}
        size = len(next(iter(whole.values())))
        session = self.repository.writable_session("main")
        self.zarr.create_array(
            session.store, name="state", compressors=None, filters=None,
            data=self.numpy.frombuffer(b"".join(whole.values()), dtype="u1").reshape(-1, size), chunks=(1, size),
        )  # fmt: skip
        session.commit("fill")

    def array(self) -> Any:
        return self.zarr.open_array(self.repository.readonly_session("main").store, path="state", mode="r")

    def read(self, path: str) -> bytes | None:
        return bytes(self.array()[self.rows[path]])

    def many(self, items: Items) -> None:
        for pairs in items:
            session = self.repository.writable_session("main")
            array = self.zarr.open_array(session.store, path="state")
            for row, value in pairs:
                array[row] = self.numpy.frombuffer(value, dtype="u1")
            session.commit("bench")

    def one(self, items: Items) -> None:
        for pair in items:
            self.many([[pair]])

    def get(self, items: Items) -> None:
        array = self.array()
        for row in items:
            array[row]

    def works(self) -> dict[Work, Doing]:
        return {
            COMMITS: Doing("icechunk session, chunk, commit", self.one),
            BATCHES: Doing("icechunk session, chunks, commit", self.many),
            GETS: Doing("icechunk array[row]", self.get),
        }


class Ray(Store):
    """Ray's object store: the whole state is one immutable object; a change puts another."""

    name = "ray"
    shared = False
    ray: Any = None

    def start(self, place: Path) -> str:
        os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self.ray = package("ray")
        self.ray.init(
            num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error",
            object_store_memory=256 << 20, _temp_dir=str(place),
        )  # fmt: skip
        return ""

    def connect(self, address: str) -> None:
        """Only the process that started it takes part: an object is named by a reference of its owner."""

    def stop(self) -> None:
        if self.ray:
            self.ray.shutdown()

    def fill(self, pairs: Pairs) -> None:
        self.state = dict(pairs)
        self.published = self.ray.put(self.state)

    def read(self, path: str) -> bytes | None:
        value: bytes | None = self.ray.get(self.published).get(path)
        return value

    def one(self, items: Items) -> None:
        for path, value in items:
            self.state[path] = value
            self.published = self.ray.put(self.state)

    def many(self, items: Items) -> None:
        for pairs in items:
            self.state.update(pairs)
            self.published = self.ray.put(self.state)

    def get(self, items: Items) -> None:
        get, published = self.ray.get, self.published
        for path in items:
            get(published)[path]

    def works(self) -> dict[Work, Doing]:
        return {
            COMMITS: Doing("ray put of the whole dict", self.one),
            BATCHES: Doing("ray put of the whole dict", self.many),
            GETS: Doing("ray get of the whole dict, d[path]", self.get),
        }


STORES: tuple[type[Store], ...] = (
    Lmdb, Redis, Git, UltraDict, Manager, Sqlite, Diskcache, Prolly, Icechunk, Ray
)  # fmt: skip


# --- states within one process: a private copy of a dict, or a mapping that shares its structure ---


def changed_copies(duplicate: Callable[[dict[str, bytes]], dict[str, bytes]], state: dict[str, bytes]) -> Run:
    """A copy with one changed key for each (key, value)."""

    def run(items: Items) -> None:
        for path, value in items:
            fork = duplicate(state)
            fork[path] = value

    return run


def pickled(state: dict[str, bytes]) -> dict[str, bytes]:
    """There and back: what handing the state to another process costs at least."""
    whole: dict[str, bytes] = pickle.loads(pickle.dumps(state, protocol=5))
    return whole


def changed_maps(persistent: Any) -> Run:
    """A map with one changed key for each (key, value); it shares the rest."""

    def run(items: Items) -> None:
        for path, value in items:
            persistent.set(path, value)

    return run


# What shares its structure, made from a state.
MAPPINGS: dict[str, Callable[[dict[str, bytes]], Any]] = {
    "immutables Map": lambda state: package("immutables").Map(state),
    "pyrsistent pmap": lambda state: package("pyrsistent").pmap(state),
}
PRIVATE: dict[str, Callable[[dict[str, bytes]], Run]] = {
    "dict.copy": lambda state: changed_copies(dict.copy, state),
    "deepcopy": lambda state: changed_copies(copy.deepcopy, state),
    "pickle dumps + loads": lambda state: changed_copies(pickled, state),
    "immutables Map.set": lambda state: changed_maps(MAPPINGS["immutables Map"](state)),
    "pyrsistent pmap.set": lambda state: changed_maps(MAPPINGS["pyrsistent pmap"](state)),
}


Made = TypeVar("Made")


def installed(
    lineup: Lineup,
    kinds: dict[str, Callable[[dict[str, bytes]], Made]],
    names: Iterable[str],
    state: dict[str, bytes],
) -> Iterator[tuple[str, Made]]:
    """Those of MAPPINGS or PRIVATE that are there, holding `state`."""
    for name in names:
        try:
            yield name, kinds[name](state)
        except Absent as error:
            lineup.skipped.append(Skipped(name, str(error)))
