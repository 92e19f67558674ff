"""Git: histories come in and go out again as git itself says they are, commit by commit, difference by difference."""

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm.errors import ConflictError, CorruptError, NotFoundError, ReadOnlyError
from helios_shm.git import export_branch, import_repository
from tests.git_history import commits_of, differences, git, init, listed, write_history

pygit2 = pytest.importorskip("pygit2")

ROOT = Path(__file__).parents[2]
MODES = {"file": "100644", "executable": "100755", "symlink": "120000"}
RING = 8 << 20
SHORT = 60  # commits


def blob_id(value: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(value) + value, usedforsecurity=False).hexdigest()


class Listing:
    """States as `git ls-tree -r` lists trees; each value is hashed once."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def __call__(self, snapshot: helios_shm.Snapshot) -> dict[str, tuple[str, str]]:
        return {path: self.entry(snapshot, path) for path in snapshot}

    def entry(self, snapshot: helios_shm.Snapshot, path: str) -> tuple[str, str]:
        stat = snapshot.stat(path)
        if stat.id not in self.ids:
            self.ids[stat.id] = blob_id(snapshot[path])
        return MODES[stat.kind], self.ids[stat.id]


def assert_same_history(branch: helios_shm.Branch, repository: Path, ref: str = "HEAD") -> None:
    """Each commit's tree, message, time and second parent, and each neighbouring difference, as git has them."""
    ids = commits_of(repository, ref)
    log = list(branch.log())[::-1]
    assert [commit.metadata["git"]["id"] for commit in log] == ids
    listing = Listing()
    by_id = dict(zip(ids, log, strict=True))
    for id, commit in by_id.items():
        assert listing(commit.snapshot) == listed(repository, id), id
        parents = commit.metadata["git"]["parents"]
        merged = [by_id[parents[1]].snapshot] if len(parents) > 1 else []
        assert list(commit.parents[1:] if commit.sequence != 1 else commit.parents) == merged
    pairs = list(itertools.pairwise(ids))
    for (old, new), wanted in zip(pairs, differences(repository, pairs), strict=True):
        diff = by_id[old].snapshot.diff(by_id[new].snapshot)
        found = dict.fromkeys(diff.added, "A") | dict.fromkeys(diff.removed, "D")
        for path in diff.changed:
            links = [snapshot.stat(path).kind == "symlink" for snapshot in (diff.old, diff.new)]
            found[path] = "M" if links[0] == links[1] else "T"
        assert found == wanted, (old, new)
    messages = git(repository, "log", "-z", "--topo-order", "--reverse", "--format=%ct %B", ref).decode()
    for commit, text in zip(log, messages.removesuffix("\0").split("\0"), strict=True):
        seconds, _, message = text.partition(" ")
        assert commit.time == datetime.fromtimestamp(int(seconds), UTC)
        assert commit.message.rstrip("\n") == message.rstrip("\n")


def assert_whole(repository: Path) -> None:
    done = subprocess.run(
        ["git", "-C", str(repository), "fsck", "--strict", "--no-dangling"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def engine() -> Iterator[helios_shm.Engine]:
    """A store of the test's own that no disk need see."""
    with helios_shm.open(None, l1_bytes=RING) as opened:
        yield opened


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated repository with some merges; not to be changed."""
    return write_history(tmp_path_factory.mktemp("history") / "repository", SHORT)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return init(tmp_path / "target")


def there_and_back(branch: helios_shm.Branch, source: Path, target: Path, ref: str = "HEAD") -> None:
    done = import_repository(branch, source, ref=ref)
    ids = commits_of(source, ref)
    assert done.commits == len(ids) and done.id == ids[-1] and done.head == branch.last_commit
    assert_same_history(branch, source, ref)
    exported = export_branch(branch, target, ref="main")
    assert (exported.id, exported.changed_ids) == (ids[-1], 0)
    assert commits_of(target, "main") == ids
    assert_whole(target)


def test_history_comes_in_and_goes_out_as_it_was(
    engine: helios_shm.Engine, history: Path, target: Path
) -> None:
    there_and_back(engine.branch("main"), history, target)


@pytest.mark.slow
def test_long_history_comes_in_and_goes_out_as_it_was(
    engine: helios_shm.Engine, tmp_path: Path, target: Path
) -> None:
    there_and_back(engine.branch("main"), write_history(tmp_path / "long", 700, seed=5, files=200), target)


@pytest.mark.slow
def test_history_of_this_source_tree_comes_in_and_goes_out_as_it_was(
    engine: helios_shm.Engine, target: Path
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not in a git checkout")
    there_and_back(engine.branch("main"), ROOT, target)


# ---- incremental ----


def test_second_import_brings_only_what_is_new(
    engine: helios_shm.Engine, history: Path, tmp_path: Path
) -> None:
    ids = commits_of(history)
    copy = tmp_path / "copy"
    shutil.copytree(history, copy)
    branch = engine.branch("main")
    # Ends that lie on top of each other, the last of them the end of all.
    chain = git(copy, "rev-list", "--first-parent", "--reverse", "HEAD").decode().split()
    brought = 0
    for end in (chain[0], chain[len(chain) // 2], chain[-1], chain[-1]):
        reached = len(commits_of(copy, end))
        assert import_repository(branch, copy, ref=end).commits == reached - brought
        brought = reached
    assert brought == len(ids)
    log = {commit.metadata["git"]["id"]: commit for commit in branch.log()}
    listing = Listing()
    for id in ids:
        assert listing(log[id].snapshot) == listed(copy, id)
        parents = log[id].metadata["git"]["parents"]
        if len(parents) > 1:
            assert log[id].parents[1] == log[parents[1]].snapshot


def test_import_that_was_interrupted_goes_on(engine: helios_shm.Engine, history: Path, target: Path) -> None:
    branch = engine.branch("main")

    def interrupt(done: int, todo: int) -> None:
        if done == 15:
            raise KeyboardInterrupt

    counts = []
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            import_repository(branch, history, progress=interrupt)
        counts.append(branch.last_commit.sequence)
    assert counts == [15, 30, 45]
    import_repository(branch, history)
    assert_same_history(branch, history)
    assert export_branch(branch, target, ref="main").id == commits_of(history)[-1]


IMPORTER = """
import os, signal, sys
import helios_shm
from helios_shm.git import import_repository
def die(done, todo):
    if done == 30:
        os.kill(os.getpid(), signal.SIGKILL)
with helios_shm.open(sys.argv[1], create=False) as engine:
    import_repository(engine.branch("main"), sys.argv[2], progress=die)
"""


def test_import_that_was_killed_goes_on(engine: helios_shm.Engine, history: Path) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTER, str(engine.path), str(history)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    branch = engine.branch("main")
    assert branch.last_commit.sequence == 30
    assert import_repository(branch, history).commits == SHORT - 30
    assert_same_history(branch, history)


def test_second_export_writes_only_what_is_new(
    engine: helios_shm.Engine, history: Path, target: Path
) -> None:
    branch = engine.branch("main")
    chain = git(history, "rev-list", "--first-parent", "--reverse", "HEAD").decode().split()
    import_repository(branch, history, ref=chain[len(chain) // 2])
    first = export_branch(branch, target, ref="main")
    import_repository(branch, history)
    second = export_branch(branch, target, ref="main")
    assert first.commits + second.commits == SHORT and second.id == chain[-1]
    assert export_branch(branch, target, ref="main").commits == 0
    assert export_branch(branch, target, ref="other").id == chain[-1]
    assert git(target, "rev-parse", "other").decode().strip() == chain[-1]


def test_without_its_note_an_export_writes_the_same_again(engine: helios_shm.Engine, target: Path) -> None:
    branch = engine.branch("main")
    for number in range(5):
        with branch.transaction(f"{number}") as workspace:
            workspace[f"d/{number}"] = b"%d" % number
    first = export_branch(branch, target, ref="main")
    (note,) = git(target, "for-each-ref", "--format=%(refname)", "refs/helios-shm").decode().split()
    git(target, "update-ref", "-d", note)
    assert export_branch(branch, target, ref="main") == first
    blob = git(target, "hash-object", "-w", "--stdin", given=b'{"serial": []}').decode().strip()
    git(target, "update-ref", note, blob)
    assert export_branch(branch, target, ref="main") == first


def test_two_ways(engine: helios_shm.Engine, history: Path, target: Path) -> None:
    """Import, commit, export; git goes on from there; import again."""
    branch = engine.branch("main")
    import_repository(branch, history)
    with branch.transaction("ours") as workspace:
        workspace["ours"] = b"1"
    with pytest.raises(ConflictError, match="export them"):
        import_repository(branch, history)
    ours = export_branch(branch, target, ref="main")
    assert ours.commits == SHORT + 1
    tree = git(target, "rev-parse", "main^{tree}").decode().strip()
    who = {
        "GIT_AUTHOR_NAME": "x",
        "GIT_AUTHOR_EMAIL": "y",
        "GIT_COMMITTER_NAME": "x",
        "GIT_COMMITTER_EMAIL": "y",
    }
    theirs = subprocess.run(
        ["git", "-C", str(target), "commit-tree", "-p", ours.id, "-m", "theirs", tree],
        env={**os.environ, **who}, capture_output=True, check=True, text=True,
    ).stdout.strip()  # fmt: skip
    git(target, "update-ref", "refs/heads/main", theirs)
    with branch.transaction("meanwhile") as workspace:
        workspace["ours"] = b"2"
    with pytest.raises(ConflictError, match="not in the history of the branch"):
        export_branch(branch, target, ref="main")
    branch.restore(branch.at(SHORT + 1).snapshot)
    engine.branch("again", at=branch.head)
    with pytest.raises(ConflictError):
        import_repository(engine.branch("again"), target)
    fresh = engine.branch("fresh")
    import_repository(fresh, history)
    with fresh.transaction("fresh") as workspace:
        workspace["fresh"] = b"1"
    exported = export_branch(fresh, target, ref="fresh")
    git(target, "update-ref", "refs/heads/fresh", exported.id)
    after = subprocess.run(
        ["git", "-C", str(target), "commit-tree", "-p", exported.id, "-m", "after", tree],
        env={**os.environ, **who}, capture_output=True, check=True, text=True,
    ).stdout.strip()  # fmt: skip
    git(target, "update-ref", "refs/heads/fresh", after)
    assert import_repository(fresh, target, ref="fresh").commits == 1
    assert (fresh.last_commit.message, fresh.last_commit.sequence) == ("after\n", SHORT + 2)
    assert Listing()(fresh.head) == listed(target, "fresh")
    assert export_branch(fresh, target, ref="fresh").id == after


# ---- what trees and commits may say ----


class Repository:
    """Objects of git's, written one by one, whatever git itself would say to them."""

    def __init__(self, path: Path) -> None:
        self.path = init(path)
        self.objects = pygit2.Repository(str(path))

    def write(self, kind: str, data: bytes) -> str:
        return str(self.objects.write(pygit2.enums.ObjectType[kind.upper()], data))

    def tree(self, *entries: tuple[str, bytes, str]) -> str:
        rows = (b"%b %b\0%b" % (mode.encode(), name, bytes.fromhex(id)) for mode, name, id in entries)
        return self.write("tree", b"".join(rows))

    def commit(self, tree: str, *parents: str, header: bytes = b"", message: bytes = b"m\n") -> str:
        lines = [f"tree {tree}", *(f"parent {each}" for each in parents)]
        lines += ["author A <a@x> 1 +0000", "committer C <c@x> 1700000000 +0200"]
        data = "\n".join(lines).encode() + b"\n" + header + b"\n" + message
        id = self.write("commit", data)
        (self.path / "refs/heads/main").write_text(id + "\n")
        return id


@pytest.fixture
def written(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "written")


def test_old_modes_come_back(engine: helios_shm.Engine, written: Repository, target: Path) -> None:
    a, b = written.write("blob", b"a"), written.write("blob", b"b")
    first = written.commit(written.tree(("100664", b"f", a), ("100644", b"g", a)))
    second = written.commit(written.tree(("100664", b"f", a), ("100644", b"g", b)), first)
    third = written.commit(written.tree(("100644", b"f", a), ("100664", b"g", b)), second)
    inner = written.tree(("100775", b"x", b))
    fourth = written.commit(written.tree(("40000", b"d", inner), ("100664", b"g", a)), third)
    branch = engine.branch("main")
    import_repository(branch, written.path)
    assert [commit.snapshot.stat("g").kind for commit in branch.log()] == ["file"] * 4
    assert branch.head.stat("d/x").kind == "executable"
    exported = export_branch(branch, target, ref="main")
    assert (exported.id, exported.changed_ids) == (fourth, 0)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"encoding ISO-8859-1\n", b"gr\xfc\xdfe\n"),
        (b"encoding UTF-8\n", "gr\u00fc\u00dfe\n".encode()),
        (b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n abc=\n -----END PGP SIGNATURE-----\n", b"signed\n"),
        (b"mergetag object 123\n type commit\n tag v1\n\n", b"x"),
        (b"x-odd  two  blanks \n", b"\n\nblank lines\n\n"),
        (b"", b""),
        (b"", b"\xff\xfe no text at all \0"),
        (b"", b"long line\n" * 5000),
    ],
)
def test_whatever_a_commit_says_comes_back(
    engine: helios_shm.Engine, written: Repository, target: Path, header: bytes, message: bytes
) -> None:
    tree = written.tree(("100644", b"f", written.write("blob", b"a")))
    first = written.commit(tree, header=header, message=message)
    id = written.commit(tree, first, header=header, message=message)
    branch = engine.branch("main")
    import_repository(branch, written.path)
    exported = export_branch(branch, target, ref="main")
    assert (exported.id, exported.changed_ids, exported.commits) == (id, 0, 2)
    if header.startswith(b"encoding"):
        assert branch.last_commit.message == "gr\u00fc\u00dfe\n"


@pytest.mark.parametrize("text", ["", "author odd\ncommitter < > x\n\nm", "parent 12\n\nm"])
def test_commits_that_git_cannot_read_are_refused(
    engine: helios_shm.Engine, written: Repository, text: str
) -> None:
    id = written.write("commit", f"tree {written.tree()}\n{text}".encode())
    (written.path / "refs/heads/main").write_text(id + "\n")
    with pytest.raises((CorruptError, NotFoundError), match=rf"{id}|'HEAD'"):
        import_repository(engine.branch("main"), written.path)
    assert engine.branches() == []


def test_submodules_are_refused_or_recorded(
    engine: helios_shm.Engine, written: Repository, target: Path
) -> None:
    a = written.write("blob", b"a")
    first = written.commit(written.tree(("100644", b"f", a)))
    second = written.commit(written.tree(("100644", b"f", a), ("160000", b"mod", "1" * 40)), first)
    third = written.commit(written.tree(("100644", b"f", a), ("160000", b"mod", "2" * 40)), second)
    fourth = written.commit(written.tree(("100644", b"f", a), ("100644", b"mod", a)), third)
    fifth = written.commit(written.tree(("160000", b"mod", "3" * 40)), fourth)
    branch = engine.branch("main")
    with pytest.raises(ValueError, match=rf"{second}.*'mod' is a submodule"):
        import_repository(branch, written.path)
    assert branch.last_commit.sequence == 1
    assert import_repository(branch, written.path, submodules="record").commits == 4
    assert [sorted(commit.snapshot) for commit in branch.log()] == [[], ["f", "mod"], ["f"], ["f"], ["f"]]
    assert branch.last_commit.metadata["git"]["submodules"] == {"mod": "3" * 40}
    assert export_branch(branch, target, ref="main").id == fifth


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (b"", "100644"),
        (b".", "100644"),
        (b"..", "100644"),
        (b".git", "100644"),
        (b".GIT", "100644"),
        (b"GIT~1", "100644"),
        (b".git ", "100644"),
        (b".git::$INDEX_ALLOCATION", "100644"),
        (".g\u200cit".encode(), "100644"),
        (b"a/b", "100644"),
        (b"no \xff text", "100644"),
        (b".gitmodules", "120000"),
        (b"n" * 1025, "100644"),
        (b"device", "60644"),
    ],
)
def test_names_that_no_tree_may_have_are_refused(
    engine: helios_shm.Engine, written: Repository, name: bytes, mode: str
) -> None:
    blob = written.write("blob", b"x")
    first = written.commit(written.tree(("100644", b"f", blob)))
    below = written.tree((mode, name, blob))
    bad = written.commit(written.tree(("40000", b"d", below)), first)
    branch = engine.branch("main")
    with pytest.raises(ValueError, match=f"{bad}.*path '"):
        import_repository(branch, written.path)
    assert [commit.metadata["git"]["id"] for commit in branch.log()] == [first]


def test_damaged_trees_are_corrupt(engine: helios_shm.Engine, written: Repository) -> None:
    blob = bytes.fromhex(written.write("blob", b"x"))
    row = b"100644 f\0" + blob
    for data in (row[:-1], b"100644f\0" + blob, row + row, b"10x644 f\0" + blob):
        written.commit(written.write("tree", data))
        with pytest.raises(CorruptError, match="tree"):
            import_repository(engine.branch("main"), written.path)
    assert engine.branches() == []


def test_missing_objects_are_named(engine: helios_shm.Engine, written: Repository) -> None:
    written.commit(written.tree(("100644", b"f", "1" * 40)))
    with pytest.raises(NotFoundError, match="1" * 40):
        import_repository(engine.branch("main"), written.path)


def test_tree_that_goes_deeper_than_a_path_may_is_refused(
    engine: helios_shm.Engine, written: Repository
) -> None:
    tree = written.tree(("100644", b"f", written.write("blob", b"x")))
    for _ in range(600):
        tree = written.tree(("40000", b"d", tree))
    written.commit(tree)
    with pytest.raises(ValueError, match="more than 1024 bytes"):
        import_repository(engine.branch("main"), written.path)


def test_shallow_clone_is_imported_and_exported_under_other_ids(
    engine: helios_shm.Engine, history: Path, tmp_path: Path, target: Path
) -> None:
    clone = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--bare", "--depth=3", f"file://{history}", str(clone)], check=True)
    branch = engine.branch("main")
    ids = commits_of(clone)
    assert import_repository(branch, clone).commits == len(ids)
    exported = export_branch(branch, target, ref="main")
    assert 0 < exported.changed_ids <= exported.commits == len(ids)
    assert_whole(target)
    assert git(target, "rev-parse", "main^{tree}") == git(clone, "rev-parse", "HEAD^{tree}")


# ---- our own commits, out ----


def test_own_commits_become_the_same_commits_each_time(
    engine: helios_shm.Engine, tmp_path: Path, target: Path
) -> None:
    branch = engine.branch("main")
    who = {"author": "Ada <ada@x>", "committer": "not a person"}
    for number, metadata in enumerate([None, who, {"git": "no mapping"}, {"git": {"id": "f" * 40}}]):
        with branch.transaction(f"line {number}", metadata=metadata) as workspace:
            workspace[f"src/{number}"] = b"%d" % number
            workspace.put("run", b"#!/bin/sh\n%d" % number, kind="executable")
            workspace.put("link", b"src/0", kind="symlink")
            workspace.put("empty/dir", b"", kind="directory")
    exported = [
        export_branch(branch, target, ref="main"),
        export_branch(branch, tmp_path / "second.git", ref="refs/tags/x", create=True),
    ]
    assert exported[0].id == exported[1].id and exported[0].commits == 4
    assert_whole(target)
    log = git(target, "log", "--format=%an <%ae> %cn %s", "main").decode().splitlines()
    assert log[2] == "Ada <ada@x> helios-shm line 1" and log[0].startswith(
        "helios-shm <helios-shm@localhost>"
    )
    found = listed(target, "main")
    assert found["run"][0] == "100755" and found["link"] == ("120000", blob_id(b"src/0"))
    assert set(found) == {"run", "link", "src/0", "src/1", "src/2", "src/3"}
    other = export_branch(branch, target, ref="named", identity=("N", "n@x"))
    assert other.id != exported[0].id
    assert git(target, "log", "-1", "--format=%cn <%ce>", "named").decode().strip() == "N <n@x>"


def test_nested_states_become_directories(engine: helios_shm.Engine, target: Path) -> None:
    branch = engine.branch("main")
    inner = engine.empty.fork()
    seen = []
    for step in range(4):
        workspace = branch.fork()
        if step < 2:
            inner[f"x/{step}"] = b"%d" % step
            workspace.put("n", inner.commit().snapshot)
        elif step == 2:
            workspace["n"] = b"a file now"
        else:
            workspace.put("n", inner.commit().snapshot)
            workspace.put("deep/n", branch.at(2).snapshot)
        workspace.commit(f"{step}")
        export_branch(branch, target, ref="main")
        seen.append(sorted(listed(target, "main")))
    assert seen == [
        ["n/x/0"],
        ["n/x/0", "n/x/1"],
        ["n"],
        ["deep/n/n/x/0", "deep/n/n/x/1", "n/x/0", "n/x/1"],
    ]


def test_metadata_that_lie_about_git_make_a_commit_like_any_other(
    engine: helios_shm.Engine, history: Path, tmp_path: Path, target: Path
) -> None:
    branch = engine.branch("main")
    import_repository(branch, history)
    claimed = branch.last_commit.metadata
    lying = engine.branch("lying")
    for change in (
        {},
        {"author": "x\ninjected: y"},
        {"raw": "!"},
        {"modes": {"f": "40000"}, "submodules": 3},
    ):
        with lying.transaction(
            "not what it says", metadata={"git": {**claimed["git"], **change}}
        ) as workspace:
            workspace["f"] = repr(change).encode()
    exported = export_branch(lying, target, ref="lying")
    assert exported.changed_ids == 4 and exported.id != claimed["git"]["id"]
    assert_whole(target)
    assert sorted(listed(target, "lying")) == ["f"]


@pytest.mark.parametrize(
    "path",
    [".git/hooks/x", "a/../../etc", "/abs", "a//b", "a/", "./a", "..", "d/.GIT", "a\0b", "git~1/config"],
)
def test_hostile_paths_are_never_exported(engine: helios_shm.Engine, target: Path, path: str) -> None:
    branch = engine.branch("main")
    with branch.transaction() as workspace:
        workspace["fine"] = b"1"
    with branch.transaction() as workspace:
        workspace[path] = b"1"
    with pytest.raises(ValueError, match="commit 2 of branch 'main': path"):
        export_branch(branch, target, ref="main")
    assert git(target, "for-each-ref") == b""


def test_path_that_is_file_and_directory_is_refused(engine: helios_shm.Engine, target: Path) -> None:
    for number, paths in enumerate([["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]]):
        branch = engine.branch(f"b{number}")
        for path in paths:
            with branch.transaction() as workspace:
                workspace[path] = b"1"
        with pytest.raises(ValueError, match="is a file and has paths below it"):
            export_branch(branch, target, ref="main")


# A state as a tree can hold it: what is a directory in it is no file.
trees = st.dictionaries(
    st.lists(st.sampled_from(["a", "b", "c-", "\u00fc"]), min_size=1, max_size=3).map("/".join),
    st.tuples(st.sampled_from(["file", "executable", "symlink"]), st.binary(max_size=3)),
    max_size=6,
).map(lambda tree: {p: e for p, e in tree.items() if not any(o.startswith(p + "/") for o in tree)})


@pytest.fixture(scope="module")
def laws(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("laws")
    with helios_shm.open(None, l1_bytes=RING) as engine:
        yield engine, init(root / "target"), iter(range(1 << 30))


@settings(max_examples=30)
@given(st.lists(trees, min_size=1, max_size=5))
def test_any_states_go_out_and_come_in_again(laws: Any, states: list[dict[str, tuple[Any, bytes]]]) -> None:
    engine, target, numbers = laws
    branch = engine.branch(f"b{next(numbers)}")
    for state in states:
        workspace = branch.fork()
        workspace.clear()
        for path, (kind, value) in state.items():
            workspace.put(path, value, kind=kind)
        workspace.commit("m")
    export_branch(branch, target, ref=branch.name)
    back = engine.branch(branch.name + "back")
    import_repository(back, target, ref=branch.name)
    assert [each.snapshot for each in back.log()] == [each.snapshot for each in branch.log()]


# ---- refs, arguments ----


def test_ref_only_moves_forward(engine: helios_shm.Engine, history: Path, target: Path) -> None:
    for name in ("one", "two"):
        with engine.branch(name).transaction(name) as workspace:
            workspace[name] = b"1"
    one = export_branch(engine.branch("one"), target, ref="main")
    with pytest.raises(ConflictError, match="force"):
        export_branch(engine.branch("two"), target, ref="main")
    assert git(target, "rev-parse", "main").decode().strip() == one.id
    two = export_branch(engine.branch("two"), target, ref="main", force=True)
    assert git(target, "rev-parse", "main").decode().strip() == two.id


def test_branch_that_is_checked_out_is_not_moved(engine: helios_shm.Engine, tmp_path: Path) -> None:
    work = tmp_path / "work"
    subprocess.run(["git", "init", "-q", "-b", "main", str(work)], check=True)
    branch = engine.branch("main")
    with branch.transaction("1") as workspace:
        workspace["f"] = b"1"
    export_branch(branch, work, ref="main")
    with branch.transaction("2") as workspace:
        workspace["f"] = b"2"
    with pytest.raises(ConflictError, match="checked out"):
        export_branch(branch, work, ref="main")
    assert export_branch(branch, work, ref="beside").commits == 1


def test_ref_that_left_the_imported_history_is_a_conflict(
    engine: helios_shm.Engine, written: Repository
) -> None:
    tree = written.tree()
    written.commit(tree, message=b"one")
    branch = engine.branch("main")
    import_repository(branch, written.path)
    written.commit(tree, message=b"another")
    with pytest.raises(ConflictError, match="another branch"):
        import_repository(branch, written.path)


@pytest.mark.parametrize("ref", ["a..b", "refs/helios-shm/x/y", "", "-x~1", "a b"])
def test_names_that_no_ref_may_have_are_refused(engine: helios_shm.Engine, target: Path, ref: str) -> None:
    with engine.branch("main").transaction("1") as workspace:
        workspace["f"] = b"1"
    with pytest.raises(ValueError, match="no name for a ref"):
        export_branch(engine.branch("main"), target, ref=ref)


def test_bad_arguments_are_refused(
    engine: helios_shm.Engine, history: Path, tmp_path: Path, target: Path
) -> None:
    branch = engine.branch("main")
    with pytest.raises(NotFoundError, match="no git repository"):
        import_repository(branch, tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="no commit 'nobody'"):
        import_repository(branch, history, ref="nobody")
    with pytest.raises(NotFoundError, match="no commit"):
        import_repository(branch, target)
    with pytest.raises(ValueError, match="submodules"):
        import_repository(branch, history, submodules="ignore")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        import_repository(branch, 3)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="'main' has no commit"):
        export_branch(branch, target, ref="main")
    with pytest.raises(NotFoundError, match="no git repository"):
        export_branch(branch, tmp_path / "nothing", ref="main")
    with pytest.raises(ValueError, match="identity"):
        export_branch(branch, target, ref="main", identity=("a\n", "b"))
    helios_shm.open(tmp_path / "store", l1_bytes=RING).close()
    with helios_shm.open(tmp_path / "store", readonly=True) as readonly, pytest.raises(ReadOnlyError):
        import_repository(readonly.branch("main"), history)


def test_missing_extra_is_named(
    engine: helios_shm.Engine, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pygit2", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "helios-shm\[git\]"'):
        import_repository(engine.branch("main"), history)


def test_progress_counts_every_commit(engine: helios_shm.Engine, history: Path, target: Path) -> None:
    seen: list[tuple[int, int]] = []
    count: Callable[[int, int], None] = lambda done, todo: seen.append((done, todo))  # noqa: E731
    import_repository(engine.branch("main"), history, progress=count)
    assert seen == [(n, SHORT) for n in range(1, SHORT + 1)]
    export_branch(engine.branch("main"), target, ref="main", progress=count)
    assert seen[SHORT:] == seen[:SHORT]


def test_values_of_a_large_tree_wait_in_bounded_memory(
    engine: helios_shm.Engine, written: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helios_shm.config, "EDITED_BYTES", 10_000)
    choose = random.Random(1)
    values = {f"f{n:03}".encode(): choose.randbytes(700) for n in range(100)}
    rows = [("100644", name, written.write("blob", value)) for name, value in values.items()]
    written.commit(written.tree(*rows))
    import_repository(engine.branch("main"), written.path)
    assert {path.encode(): value for path, value in engine.branch("main").head.items()} == values
