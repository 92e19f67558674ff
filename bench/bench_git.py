"""Git histories into commits and back, a commit at a time, beside git's own ways of moving a history.

    import    import_repository        `git clone` (copies packs)    `git fast-export | git fast-import` (reads all)
    export    export_branch                                          the same
    again     import, nothing is new   `git fetch`, nothing is new

A generated history (source text, three files of a thousand a commit, a merge now and then) and that of this source
tree. Repositories are bare and packed; what is written by either side lies on the disk of the stores. The floor reads,
or writes, through libgit2 the same objects and does nothing with them.
"""

import itertools
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import helios_shm
from helios_shm import git as helios_git

from .harness import Contender, Items, Row, Run, Samples, Setting, Skipped, Spread, compare, measure
from .peers import Absent, package, program
from .states import directory, store

ROUNDS = 2
WORDS = [
    "return",
    "value",
    "self",
    "for",
    "index",
    "in",
    "range",
    "(n)",
    "if",
    "not",
    "None:",
    "+=",
    "1",
    "yield",
]
FILES, LINES = 1000, 60


def text(choose: random.Random, lines: int) -> list[str]:
    return [" ".join(choose.choices(WORDS, k=9)) for _ in range(lines)]


def stream(commits: int, files: int) -> Iterator[bytes]:
    """A history as `git fast-import` reads it; every tenth commit has a second parent."""
    choose = random.Random(17)
    state = {f"src/p{n % 53}/m{n % 7}/file{n}.py": text(choose, LINES) for n in range(files)}
    paths = list(state)
    for mark in range(1, commits + 1):
        touched = paths if mark == 1 else choose.sample(paths, min(3, files))
        yield b"commit refs/heads/main\nmark :%d\ncommitter B <b@x> %d +0000\ndata 9\nchange 1\n" % (
            mark,
            mark,
        )
        if mark > 1:
            yield b"from :%d\n" % (mark - 1)
        if mark % 10 == 0:
            yield b"merge :%d\n" % (mark - 9)
        for path in touched:
            state[path][choose.randrange(LINES)] = text(choose, 1)[0]
            value = "\n".join(state[path]).encode()
            yield b"M 100644 inline %b\ndata %d\n%b\n" % (path.encode(), len(value), value)


def run(*words: str | Path, given: bytes | None = None) -> bytes:
    """A command; its standard output."""
    return subprocess.run([str(word) for word in words], input=given, capture_output=True, check=True).stdout


def empty(path: Path) -> Path:
    run("git", "init", "-q", "--bare", "-b", "main", path)
    return path


def generated(path: Path, commits: int, files: int) -> Path:
    empty(path)
    run("git", "-C", path, "fast-import", "--quiet", given=b"".join(stream(commits, files)))
    return path


def of_this_tree(path: Path, commits: int | None) -> Path:
    """The history of this source tree, packed; at most about so many of its newest commits."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        raise Absent("there is no repository here")
    depth = [] if commits is None else [f"--depth={commits}"]
    run("git", "clone", "-q", "--bare", "--no-tags", "--single-branch", *depth, f"file://{root}", path)
    run("git", "-C", path, "repack", "-adq")
    return path


def through_a_pipe(source: Path, target: Path) -> None:
    """`git fast-export | git fast-import`."""
    words = ["git", "-C", str(source), "fast-export", "--signed-tags=strip", "HEAD"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as export:
        subprocess.run(["git", "-C", str(target), "fast-import", "--quiet"], stdin=export.stdout, check=True)


class Sides:
    """Ours and git's ways with one repository; each run takes a new place or branch."""

    def __init__(self, engine: helios_shm.Engine, source: Path, root: Path) -> None:
        self.engine, self.source, self.root = engine, source, root
        self.commits = int(run("git", "-C", source, "rev-list", "--count", "HEAD"))
        self.numbers = itertools.count()
        self.branch = engine.branch("exported")
        self.objects: list[tuple[Any, Any]] = []
        read = helios_git._Repository.read

        def noting(repository: Any, id: bytes, kind: int, what: str) -> bytes:
            data = read(repository, id, kind, what)
            self.objects.append((id, (kind, data)))
            return data

        with mock.patch.object(helios_git._Repository, "read", noting):
            helios_git.import_repository(self.branch, source)
        self.copy = root / "copy"
        run("git", "clone", "-q", "--bare", f"file://{source}", self.copy)
        self.libgit2 = package("pygit2")

    def place(self) -> Path:
        return self.root / f"place{next(self.numbers)}"

    def new_places(self, _count: int) -> Items:
        return [empty(self.place())]

    def names(self, _count: int) -> Items:
        return [self.place()]

    def branches(self, _count: int) -> Items:
        return [self.engine.branch(f"b{next(self.numbers)}")]

    def nothing(self, _count: int) -> Items:
        return [None]

    # --- what is timed ---

    def bring(self, items: Items) -> None:
        helios_git.import_repository(items[0], self.source)

    def bring_again(self, _items: Items) -> None:
        helios_git.import_repository(self.branch, self.source)

    def take(self, items: Items) -> None:
        helios_git.export_branch(self.branch, items[0], ref="main")

    def clone(self, items: Items) -> None:
        run("git", "clone", "-q", "--bare", "--no-local", self.source, items[0])

    def pipe(self, items: Items) -> None:
        through_a_pipe(self.source, items[0])

    def fetch(self, _items: Items) -> None:
        run("git", "-C", self.copy, "fetch", "-q", "origin")

    def read(self, _items: Items) -> None:
        repository, oid = self.libgit2.Repository(str(self.source)), self.libgit2.Oid
        for id, _ in self.objects:
            repository.read(oid(raw=id))

    def write(self, items: Items) -> None:
        repository = self.libgit2.Repository(str(items[0]))
        for _, (kind, data) in self.objects:
            repository.write(kind, data)

    def taken(
        self, sides: list[tuple[str, Run, Callable[[int], Items]]], batch: int, rounds: int
    ) -> list[Samples]:
        contenders = [Contender(name, work, inputs, idle=lambda _: None) for name, work, inputs in sides]
        return measure(contenders, rounds=rounds, calls=1, batch=batch, warm_up=False)


PIPE = "git fast-export | git fast-import"


def rows_of(sides: Sides, what: str) -> Iterator[Row]:
    """The three rows of one repository."""
    commits, n = sides.commits, f"{sides.commits:,} commits of {what}"
    pipe = (PIPE, sides.pipe, sides.new_places)
    ours, clone, peer, floor = sides.taken(
        [("ours", sides.bring, sides.branches), ("git clone", sides.clone, sides.names), pipe,
         ("libgit2 reads the same objects", sides.read, sides.nothing)],
        commits, ROUNDS,
    )  # fmt: skip
    note = f"{1e9 / ours.spread.p50:,.0f} commits/s; {len(sides.objects) / commits:.1f} objects read a commit"
    yield compare(f"git import, a commit, {n}", ours, [clone, peer], floor=floor, note=note)
    ours, peer, floor = sides.taken(
        [("ours", sides.take, sides.new_places), pipe,
         ("libgit2 writes the same objects", sides.write, sides.new_places)],
        commits, ROUNDS,
    )  # fmt: skip
    note = f"{1e9 / ours.spread.p50:,.0f} commits/s; a pack without deltas"
    yield compare(f"git export, a commit, {n}", ours, [peer], floor=floor, note=note)
    ours, peer = sides.taken(
        [("ours", sides.bring_again, sides.nothing), ("git fetch", sides.fetch, sides.nothing)], 1, 5
    )
    yield compare(f"git import again, nothing is new, {n}", ours, [peer])


def histories(setting: Setting) -> Iterator[Row]:
    """A generated history, and that of this source tree."""
    made: list[tuple[str, Callable[[Path], Path]]] = [
        (
            "generated text",
            lambda path: generated(path, setting.scale(400, 30), setting.scale(FILES, 50)),
        ),
        ("this source tree", lambda path: of_this_tree(path, setting.scale(100_000, 12))),
    ]
    for what, make in made:
        with ExitStack() as stack:
            try:
                program("git")
                engine = stack.enter_context(store(setting))
                root = stack.enter_context(directory(setting.disk))
                sides = Sides(engine, make(root / "source"), root)
            except (Absent, ModuleNotFoundError) as error:
                why = (Skipped("git", str(error)),)
                yield Row(
                    operation=f"git import, a commit, {what}", n=0, ours=Spread.single(0.0, "ns"), skipped=why
                )
                continue
            yield from rows_of(sides, what)
