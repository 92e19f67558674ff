"""Workload 7: bulk load, of many keys and of a real source tree, each into a store that was made for it.

    before the clock        on the clock                                        after it
    an empty store     ->   every value in, and what makes them seen by all  -> closed, its processes ended
                            (of the tree: files read, and safe from power loss)

One load is one sample: a second one into the same store would find every value there. The floor is what any of
them does at least: BLAKE3 of all bytes and one copy of them, and, where the load is durable, one sync of the disk.
"""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from blake3 import blake3

from .harness import (
    Contender,
    Items,
    Point,
    Row,
    Setting,
    Skipped,
    Target,
    compare,
    measure,
    pairs_of,
    show,
    sized,
)
from .peers import BATCHES, Absent, Diskcache, Git, Icechunk, Lmdb, Redis, Sqlite, Store, package, program
from .states import directory, store

Pairs: TypeAlias = Sequence[tuple[str, bytes]]
Load: TypeAlias = Callable[[], object]

MSET_KEYS = 10_000  # in one command: Redis answers nobody else meanwhile
GIT = "git add + git commit"


@dataclass(frozen=True, slots=True)
class Loader:
    """One side: `fresh` makes an empty store in the stack, and returns what loads it; `probe` fails if it cannot."""

    name: str
    fresh: Callable[[ExitStack], Load]
    probe: Callable[[], object] = bool
    every: int = 1  # it runs in one round of so many


class Turns(ExitStack):
    """Lets loaders take turns: each finds the one before it closed, and its processes gone."""

    def contender(self, loader: Loader) -> Contender:
        def inputs(count: int) -> Items:
            self.close()
            return [loader.fresh(self) for _ in range(count)]

        return Contender(loader.name, run, inputs, every=loader.every)

    def present(self, loaders: Sequence[Loader]) -> tuple[list[Contender], list[Skipped]]:
        """Those that can be made here."""
        found: list[Contender] = []
        skipped: list[Skipped] = []
        for loader in loaders:
            try:
                loader.probe()
            except Absent as error:
                skipped.append(Skipped(loader.name, str(error)))
            except Exception as error:
                skipped.append(Skipped(loader.name, f"{type(error).__name__}: {error}", installed=True))
            else:
                found.append(self.contender(loader))
        return found, skipped


def run(items: Items) -> None:
    for load in items:
        load()


def rows_of(
    setting: Setting,
    operation: str,
    loaders: Sequence[Loader],
    floor: Loader,
    *targets: Target,
    at: Point | None = None,
    note: Callable[[float], str],
    seconds: float,
) -> Iterator[Row]:
    """The row of `loaders`, ours first; `note` says more about our nanoseconds."""
    with Turns() as turns:
        contenders, skipped = turns.present(loaders)
        samples = measure(
            [turns.contender(floor), *contenders],
            rounds=setting.scale(3, 1), calls=1, batch=1, warm_up=False, seconds=seconds,
        )  # fmt: skip
    least, ours, *others = samples
    yield compare(
        operation, ours, others, *targets, floor=least, skipped=skipped, at=at, note=note(ours.spread.p50)
    )


# --- many keys ---


def ours(setting: Setting, pairs: Pairs) -> Loader:
    def fresh(stack: ExitStack) -> Load:
        workspace = stack.enter_context(store(setting)).branch("main").fork()

        def load() -> None:
            for path, value in pairs:
                workspace[path] = value
            workspace.commit()

        return load

    return Loader("ours", fresh)


def batch_of(kind: type[Store], parent: Path, pairs: Pairs, *, durable: bool = False) -> Loader:
    """A peer's way to put many values at once."""

    def fresh(stack: ExitStack) -> Load:
        nbytes = sum(len(path) + len(value) + 400 for path, value in pairs)
        peer = stack.enter_context(kind(parent, durable=durable, nbytes=nbytes))
        keyed = [(peer.key(path), value) for path, value in pairs]
        step = MSET_KEYS if kind is Redis else len(keyed)
        batches = [keyed[at : at + step] for at in range(0, len(keyed), step)]
        many = peer.works()[BATCHES].run
        return lambda: many(batches)

    labels = {Lmdb: "putmulti", Sqlite: "executemany", Redis: f"MSET of {MSET_KEYS:,}", Diskcache: "transact",
              Git: "blobs + trees + commit"}  # fmt: skip
    sync = ", synced" if durable else ""
    return Loader(f"{kind.name} {labels[kind]}{sync}", fresh, partial(opened, kind, parent))


def opened(kind: type[Store], parent: Path) -> None:
    """It can be opened here."""
    with kind(parent):
        pass


def icechunk(parent: Path, pairs: Pairs) -> Loader:
    """An array of one chunk a value."""

    def fresh(stack: ExitStack) -> Load:
        peer = stack.enter_context(Icechunk(parent))
        return lambda: peer.fill(pairs)

    return Loader("icechunk array + commit", fresh, partial(opened, Icechunk, parent))


def persistent_maps(pairs: Pairs) -> list[Loader]:
    """Of one process: nobody else sees them."""

    def immutables(stack: ExitStack) -> Load:
        make = package("immutables").Map
        return lambda: make(pairs)

    def pyrsistent(stack: ExitStack) -> Load:
        make = package("pyrsistent").pmap
        return lambda: make(dict(pairs))

    return [
        Loader("immutables.Map, private", immutables, partial(package, "immutables")),
        Loader("pyrsistent.pmap, private", pyrsistent, partial(package, "pyrsistent")),
    ]


def least_of_keys(pairs: Pairs) -> Loader:
    joined = b"".join(path.encode() + value for path, value in pairs)
    view = memoryview(joined)
    return Loader(
        "BLAKE3 (wheel) and memcpy of all bytes", lambda _: lambda: (blake3(joined).digest(), bytes(view))
    )


def loaded_keys(setting: Setting, keys: int, size: int, seconds: float) -> Iterator[Row]:
    """So many new keys in one commit; whoever takes a file or more a key stops at 10 000."""
    pairs = list(pairs_of(keys, size))
    kinds: list[type[Store]] = [Lmdb, Sqlite, Redis]
    loaders = [ours(setting, pairs), *(batch_of(kind, setting.memory, pairs) for kind in kinds)]
    loaders += persistent_maps(pairs)
    if keys <= 10_000 and size < 1024:
        loaders += [batch_of(kind, setting.memory, pairs) for kind in (Diskcache, Git)]
        loaders.append(icechunk(setting.memory, pairs))
    yield from rows_of(
        setting, f"bulk load of {keys:,} keys x {sized(size)}", loaders, least_of_keys(pairs),
        at=Point("bulk load", f"{sized(size)} values", "keys", keys),
        note=lambda ns: f"{show(ns / keys, 'ns')} a key", seconds=seconds,
    )  # fmt: skip


def bulk_keys(setting: Setting) -> Iterator[Row]:
    """Ten thousand, a hundred thousand, a million."""
    yield from loaded_keys(setting, setting.scale(10_000, 300), 48, 4)
    yield from loaded_keys(setting, setting.scale(10_000, 300), 1024, 5)
    yield from loaded_keys(setting, setting.scale(100_000, 600), 48, 5)
    yield from loaded_keys(setting, setting.scale(1_000_000, 1_200), 48, 12)


# --- a source tree ---


def copied_tree(to: Path, most: int) -> list[str]:
    """The files of Python's standard library, copied; what was not installed with it is left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not path.is_symlink()
        and not {"site-packages", "dist-packages", "__pycache__"} & set(path.parts)
        and path.suffix not in (".so", ".a")
    )
    names = [path.relative_to(root).as_posix() for path in found[:: max(1, len(found) // most)][:most]]
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, to / name)
    return names


def files(tree: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every file's name and bytes, read one by one."""
    for name in names:
        with open(f"{tree}/{name}", "rb", buffering=0) as file:
            yield name, file.read()


def ours_of_tree(setting: Setting, tree: Path, names: Sequence[str]) -> Loader:
    def fresh(stack: ExitStack) -> Load:
        engine = stack.enter_context(store(setting))
        engine.sync()  # its coordinator runs
        workspace = engine.branch("main").fork()

        def load() -> None:
            for name, value in files(tree, names):
                workspace[name] = value
            workspace.commit(durable=True)

        return load

    return Loader("ours", fresh)


def git(setting: Setting, tree: Path, name: str, *options: str) -> Loader:
    """The program; by default it syncs packs and refs, and no object of its own file."""

    def fresh(stack: ExitStack) -> Load:
        place = stack.enter_context(directory(setting.disk))
        user = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
        command = [program("git"), f"--git-dir={place}/git", f"--work-tree={tree}", *user, *options]
        environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

        def call(*words: str) -> None:
            subprocess.run(
                [*command, *words], check=True, stdout=subprocess.DEVNULL, env=environment, cwd=tree
            )

        def load() -> None:
            call("add", "--all")
            call("commit", "--quiet", "--message=bench")

        call("init", "--quiet", "--initial-branch=main")
        return load

    return Loader(name, fresh, partial(program, "git"), every=1 if name == GIT else 5)


def libgit2(setting: Setting, tree: Path, names: Sequence[str]) -> Loader:
    """A blob from each file, an index in memory, a tree of it, a commit."""

    def fresh(stack: ExitStack) -> Load:
        pygit2 = package("pygit2")
        place = stack.enter_context(directory(setting.disk))
        repository = pygit2.init_repository(str(place), bare=True)

        def load() -> None:
            index = pygit2.Index()
            for name in names:
                blob = repository.create_blob_fromdisk(f"{tree}/{name}")
                index.add(pygit2.IndexEntry(name, blob, pygit2.enums.FileMode.BLOB))
            made = index.write_tree(repository)
            me = pygit2.Signature("bench", "bench@localhost")
            repository.create_commit("refs/heads/main", me, me, "bench", made, [])

        return load

    return Loader("pygit2 blobs, index in memory, commit", fresh, partial(package, "pygit2"), every=5)


def batch_of_tree(
    kind: type[Store], setting: Setting, tree: Path, names: Sequence[str], nbytes: int
) -> Loader:
    """Files read, and put at once by a peer that syncs its commit."""

    def fresh(stack: ExitStack) -> Load:
        peer = stack.enter_context(kind(setting.disk, durable=True, nbytes=nbytes))
        many = peer.works()[BATCHES].run
        return lambda: many([[(peer.key(name), value) for name, value in files(tree, names)]])

    named = batch_of(kind, setting.disk, (), durable=True)
    return Loader(named.name, fresh, named.probe)


def least_of_tree(setting: Setting, tree: Path, names: Sequence[str]) -> Loader:
    def fresh(stack: ExitStack) -> Load:
        values = [value for _, value in files(tree, names)]
        file = stack.enter_context((stack.enter_context(directory(setting.disk)) / "synced").open("wb", 0))

        def load() -> None:
            for value in values:
                blake3(value).digest()
            copy = b"".join(values)
            file.write(copy[:4096])
            os.fsync(file.fileno())

        return load

    return Loader("BLAKE3 (wheel) and memcpy of all bytes, one fsync", fresh)


def bulk_tree(setting: Setting) -> Iterator[Row]:
    """Read from files, and safe from power loss when it returns."""
    with directory(setting.disk) as tree:
        names = copied_tree(tree, setting.scale(2_000, 40))
        nbytes = sum((tree / name).stat().st_size for name in names)
        loaders = [
            ours_of_tree(setting, tree, names),
            git(setting, tree, GIT),
            git(setting, tree, f"{GIT}, every object synced", "-c", "core.fsync=all", "-c",
                "core.fsyncMethod=batch"),
            libgit2(setting, tree, names),
            *(batch_of_tree(kind, setting, tree, names, nbytes) for kind in (Lmdb, Sqlite, Diskcache)),
        ]  # fmt: skip
        yield from rows_of(
            setting, f"bulk load of a source tree, {len(names):,} files, {show(nbytes, 'bytes')}, durable",
            loaders, least_of_tree(setting, tree, names), Target("<=", 0.2, GIT),
            note=lambda ns: f"{show(ns / len(names), 'ns')} a file, {nbytes / ns * 1000:,.0f} MB/s; "
            "the standard library of this Python", seconds=setting.scale(8, 5),
        )  # fmt: skip
