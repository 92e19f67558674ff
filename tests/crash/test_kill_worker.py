"""A worker dies at each labelled step of a commit: what it acknowledged is there, the rest whole or not at all."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import helios_shm
from helios_shm import lifecycle
from helios_shm.store import StorePaths

WAIT_SECONDS_MAX = 40.0
STEPS = [
    "claim_before", "claim_after", "append_header", "append_payload", "publish_before", "publish_after",
    "index_before", "index_after", "head_before", "head_after", "release_before", "release_after", "tag_before",
    "tag_after", "join_locked", "join_after",
]  # fmt: skip
# Steps that a process passes once, not at each commit.
ONCE = ("tag_before", "tag_after", "join_locked", "join_after")

# Says each commit once it has returned; argv: path, branch, label, nth.
WORKER = """
import os, sys
import helios_shm
from helios_shm._capi import check, lib
path, branch, label, nth = sys.argv[1:]
if label:
    check(lib.hs_step_arm(label.encode(), int(nth), 1), label)
engine = helios_shm.open(path)
for n in range(40):
    ws = engine.branch(branch).fork()
    ws[f"{branch}/{n}"] = b"%d " % n * 50
    ws.commit(f"{n}")
    os.write(1, b"%d\\n" % n)
sys.stdin.readline()
"""


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


def worker(path: Path, branch: str, label: str = "", nth: int = 1) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(path), branch, label, str(nth)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def check_branch(engine: helios_shm.Engine, name: str, acknowledged: int) -> int:
    """All that was acknowledged, at most one commit more, each once, whole. Returns how many there are."""
    if acknowledged == 0 and name not in engine.branches():
        return 0
    branch = engine.branch(name)
    log = list(branch.log())
    assert acknowledged <= len(log) <= acknowledged + 1
    assert [commit.message for commit in log] == [f"{n}" for n in range(len(log) - 1, -1, -1)]
    assert dict(branch.head) == {f"{name}/{n}": b"%d " % n * 50 for n in range(len(log))}
    return len(log)


def leave_and_check(path: Path, counts: dict[str, int]) -> None:
    until(lambda: not lifecycle.coordinator_runs(StorePaths(path)), "the coordinator leaves")
    with helios_shm.open(path, create=False) as engine:
        for name, count in counts.items():
            assert check_branch(engine, name, count) == count


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_what_it_acknowledged_is_there(store_path: Path, step: str) -> None:
    with helios_shm.open(store_path) as engine:
        child = worker(store_path, "main", step, 1 if step in ONCE else 9)
        out, _ = child.communicate()
        assert child.returncode == -signal.SIGKILL, "the step was not reached"
        acknowledged = len(out.splitlines())
        count = check_branch(engine, "main", acknowledged)
        # The others go on, on the same branch too; what the dead one held comes back.
        for n in range(count, count + 30):
            ws = engine.branch("main").fork()
            ws[f"main/{n}"] = b"%d " % n * 50
            ws.commit(f"{n}")
        engine.sync()
        assert check_branch(engine, "main", count + 30) == count + 30
        until(lambda: engine.stats().participants == 1, "the dead one's slot is free")
    leave_and_check(store_path, {"main": count + 30})


def test_workers_and_coordinator_killed_at_once_lose_nothing(store_path: Path) -> None:
    """The coordinator never got to drain: what was acknowledged is in the segment only; closing saves it."""
    with helios_shm.open(store_path) as engine:
        engine.sync()
        coordinator = psutil.Process(int(engine.stats().coordinator_pid or 0))
        coordinator.suspend()
        children = [worker(store_path, name) for name in ("a", "b", "c")]
        for child in children:
            assert child.stdout
            for n in range(40):
                assert child.stdout.readline() == f"{n}\n"
        for child in children:
            child.kill()
            child.communicate()
        coordinator.kill()
    leave_and_check(store_path, dict.fromkeys(("a", "b", "c"), 40))


def test_a_segment_without_any_process_is_drained_by_the_next_open(store_path: Path) -> None:
    starter = (
        "import os, signal, sys\nimport helios_shm\nengine = helios_shm.open(sys.argv[1])\nengine.sync()\n"
        "os.kill(engine.stats().coordinator_pid, signal.SIGSTOP)\n"
        "pid = engine.stats().coordinator_pid\n"
        "for n in range(40):\n    ws = engine.branch('main').fork()\n    ws[f'main/{n}'] = b'%d ' % n * 50\n"
        "    ws.commit(f'{n}')\n"
        "os.kill(pid, signal.SIGKILL)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", starter, str(store_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    paths = StorePaths(store_path)
    until(lambda: not lifecycle.is_in_use(paths), "nobody is left")
    assert Path("/dev/shm" + lifecycle.identify(paths).segment_name).exists()
    with helios_shm.open(store_path, create=False) as engine:
        assert check_branch(engine, "main", 40) == 40
    leave_and_check(store_path, {"main": 40})
    until(lambda: not lifecycle.coordinator_runs(paths), "the coordinator leaves")
    assert not Path("/dev/shm" + lifecycle.identify(paths).segment_name).exists()
