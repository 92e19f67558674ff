"""Scratches: each candidate is there exactly, by delta, and no directory is left behind."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import helios_shm
from helios_shm import Engine, Snapshot
from helios_shm.mcts.agent import Command, Delete, Replace, Scratch, Write
from helios_shm.mcts.agent.edit import edited
from tests.programs import untraced

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Nothing here is about disks."""
    with helios_shm.open(None) as opened:
        yield opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "scratches"


def state_of(engine: Engine, files: dict[str, bytes]) -> Snapshot:
    workspace = engine.empty.fork()
    workspace.update(files)
    return workspace.commit().snapshot


def tree_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


FILES = {f"package/module{i:02}.py": b"VALUE = %d\n" % i for i in range(50)}


def test_only_what_differs_is_written(engine: Engine, root: Path) -> None:
    states = [state_of(engine, FILES)]
    for i in range(5):
        workspace = states[0].fork()
        workspace[f"package/module{i:02}.py"] = b"VALUE = -1\n"
        states.append(workspace.commit().snapshot)
    with Scratch(root) as scratch:
        assert scratch.load(states[0]).written == 50
        assert scratch.load(states[1]).written == 1
        for state in states[2:]:
            assert scratch.load(state).written == 2  # the one before is taken back
            assert tree_of(scratch.tree) == dict(state)
        assert scratch.load(states[0]).written == 1


def test_what_commands_leave_is_gone_for_the_next(engine: Engine, root: Path) -> None:
    state = state_of(engine, FILES)
    mess = (
        "echo changed > package/module00.py; rm package/module01.py; mkdir -p deep/er; echo x > deep/er/file;"
        "ln -s /etc/passwd package/link; mkfifo pipe; rm package/module02.py; mkdir package/module02.py;"
        "mkdir locked; echo x > locked/in; chmod 0 locked; echo t > $TMPDIR/temporary; chmod 0 package/module03.py"
    )
    with Scratch(root) as scratch:
        for _ in range(2):
            scratch.load(state)
            assert scratch.run(Command(["sh", "-ec", mess])).text == ""
            assert os.listdir(scratch.temporary) == []
        assert scratch.load(state).written == 3
        assert tree_of(scratch.tree) == FILES
        assert sorted(os.listdir(scratch.tree)) == ["package"]


def test_a_tree_that_cannot_be_cleaned_is_made_anew(
    engine: Engine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_of(engine, FILES)
    with Scratch(root) as scratch:
        scratch.load(state)
        real, calls = Scratch._materialize, []

        def once_refused(self: Scratch, wanted: Snapshot) -> object:
            calls.append(wanted)
            if len(calls) == 1:
                raise PermissionError("immutable")
            return real(self, wanted)

        monkeypatch.setattr(Scratch, "_materialize", once_refused)
        assert scratch.load(state).written == 50
        assert tree_of(scratch.tree) == FILES


def test_what_is_kept_stays(engine: Engine, root: Path) -> None:
    state = state_of(engine, {"src/a.c": b"", "doc/x": b"no part of it"})
    with Scratch(root, prefix="src/", keep=["build/"]) as scratch:
        scratch.load(state)
        assert scratch.run(Command(["sh", "-c", "mkdir build; echo 1 > build/a.o; echo 2 > other"])).ok
        scratch.load(state)
        assert tree_of(scratch.tree) == {"a.c": b"", "build/a.o": b"1\n"}
        workspace = state.fork()
        assert scratch.ingest(workspace).changed == 0
        assert dict(workspace) == dict(state)


def test_directory_is_ours_alone_and_goes_with_the_scratch(engine: Engine, root: Path) -> None:
    scratch = Scratch(root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    home = scratch.tree.parent
    scratch.close()
    scratch.close()
    assert not home.exists()
    with pytest.raises(helios_shm.ClosedError):
        scratch.load(engine.empty)
    Scratch(root)  # nobody has it
    assert os.listdir(root) == []


@pytest.mark.parametrize("what", ["writable", "link", "file"])
def test_a_root_that_others_could_write_to_is_refused(root: Path, tmp_path: Path, what: str) -> None:
    if what == "writable":
        root.mkdir()
        root.chmod(0o777)
    elif what == "link":
        root.symlink_to(tmp_path)
    else:
        root.touch()
    with pytest.raises(helios_shm.StoreError, match="root="):
        Scratch(root)


OWNER = """
import sys, helios_shm
from helios_shm.mcts.agent import Scratch, Command
engine = helios_shm.open(sys.argv[1])
scratch = Scratch(sys.argv[2])
workspace = engine.empty.fork()
workspace["a"] = b"1"
scratch.load(workspace.commit().snapshot)
print("loaded", flush=True)
if sys.argv[3] == "exit":
    sys.exit()
scratch.run(Command(["sleep", "1000"]))
"""


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_directories_of_the_dead_are_removed_by_the_next(store_path: Path, root: Path, end: str) -> None:
    with Scratch(root) as living:
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(store_path), str(root), end],
            env={**untraced(), "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"loaded\n"
        if end == "kill":
            assert len(os.listdir(root)) == 2
            owner.kill()
        owner.stdout.close()
        assert owner.wait() == (-signal.SIGKILL if end == "kill" else 0)
        if end == "exit":
            assert os.listdir(root) == [living.tree.parent.name]
        # One that was killed while it started a process holds its lock until that process is another program.
        deadline = time.monotonic() + 20
        while True:
            with Scratch(root) as another:
                left = sorted(os.listdir(root))
                expected = sorted([living.tree.parent.name, another.tree.parent.name])
            if left == expected or time.monotonic() > deadline:
                break
        assert left == expected


def test_a_forked_child_does_not_hold_its_parents(engine: Engine, root: Path) -> None:
    with Scratch(root) as scratch:
        scratch.load(state_of(engine, FILES))
        pid = os.fork()
        if not pid:
            try:
                scratch.load(engine.empty)
            except helios_shm.ClosedError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert tree_of(scratch.tree) == FILES


# --- edits ---


def no_scratch() -> Scratch:
    raise AssertionError("these edits need no directory")


def test_edits_change_one_file_each(engine: Engine) -> None:
    state = state_of(engine, {"src/a.py": b"x = 1\ny = 1\n", "src/b.py": b""})
    workspace = state.fork()
    workspace.put("src/run", b"#!/bin/sh\n", kind="executable")
    state = workspace.commit().snapshot

    def after(edit: Write | Delete | Replace) -> Snapshot:
        return edited(state, edit, no_scratch, "src/")

    assert after(Write("c.py", b"new"))["src/c.py"] == b"new"
    assert after(Write("run", b"#!/bin/bash\n")).stat("src/run").kind == "executable"
    assert "src/b.py" not in after(Delete("b.py"))
    assert after(Replace("a.py", "y = 1", "y = 2"))["src/a.py"] == b"x = 1\ny = 2\n"
    assert after(Replace("a.py", "1", "3", at=4))["src/a.py"] == b"x = 3\ny = 1\n"
    assert after(Replace("run", "sh", "dash")).stat("src/run").kind == "executable"
    assert len({Replace("a", "b", "c"), Replace("a", "b", "c"), Write("a", b"b"), Delete("a")}) == 3
    assert str(Replace("a.py", "1", "3", at=4)) == "a.py, character 4: '1' -> '3'"


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (Replace("a.py", "1", "2"), ValueError),
        (Replace("a.py", "z", "2"), ValueError),
        (Replace("a.py", "y", "2", at=0), ValueError),
        (Replace("none.py", "y", "2"), KeyError),
        (Delete("none.py"), KeyError),
    ],
)
def test_edits_that_do_not_fit_say_so(engine: Engine, edit: Replace | Delete, error: type) -> None:
    state = state_of(engine, {"a.py": b"x = 1\ny = 1\n"})
    with pytest.raises(error):
        edited(state, edit, no_scratch)


def test_an_edit_may_be_any_function_over_a_directory(engine: Engine, root: Path) -> None:
    def rename(directory: Path) -> None:
        os.rename(directory / "a.py", directory / "b.py")
        (directory / "__pycache__").mkdir()
        (directory / "__pycache__" / "b.pyc").touch()

    state = state_of(engine, {"src/a.py": b"x", "other": b"y"})
    with Scratch(root, prefix="src/") as scratch:
        made = edited(state, rename, lambda: scratch, "src/", ["**/__pycache__/"])
    assert dict(made) == {"src/b.py": b"x", "other": b"y"}
