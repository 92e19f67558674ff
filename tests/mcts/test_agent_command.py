"""Commands: their limits really end them, and nothing of them is left, whoever dies."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helios_shm.mcts.agent import Command, Outcome
from helios_shm.mcts.agent.keeper import Kept
from tests.programs import untraced

ROOT = Path(__file__).parents[2]
MARK = "HELIOS_AGENT_TEST"
END_S_MAX = 20.0


def python(program: str, **options: object) -> Command:
    return Command([sys.executable, "-c", program], **options)  # type: ignore[arg-type]


def processes_marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """What all processes of a command have in their environment; none of them may be left."""
    yield str(tmp_path)
    assert processes_marked(str(tmp_path)) == []


def wait_until_none(mark: str) -> None:
    deadline = time.monotonic() + END_S_MAX
    while processes_marked(mark) and time.monotonic() < deadline:
        time.sleep(0.02)


# --- what a command gives ---


def test_outcome_has_what_was_printed_and_the_code(tmp_path: Path) -> None:
    outcome = python("import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)").run(
        tmp_path
    )
    assert (outcome.returncode, outcome.limit, outcome.ok) == (3, None, False)
    assert outcome.text == "out\nerr\n"
    assert outcome.output_size == 8
    assert outcome.cpu_seconds > 0
    assert Outcome.from_record(outcome.to_record()) == outcome


def test_it_runs_in_the_directory_with_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    monkeypatch.setenv("AGENT_GONE", "1")
    program = "import os; print(os.getcwd(), os.environ['A'], os.environ['B'], 'AGENT_GONE' in os.environ)"
    command = python(program, env={"A": "1", "AGENT_GONE": None}, cwd="below")
    assert command.run(tmp_path, env={"A": "0", "B": "2"}).text.split() == [
        os.path.realpath(tmp_path / "below"), "1", "2", "False",
    ]  # fmt: skip


def test_command_that_cannot_be_started_says_so_and_the_next_one_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        Command(["no-such-program"]).run(tmp_path)
    with pytest.raises(FileNotFoundError):
        Command(["true"]).run(tmp_path / "nowhere")
    assert Command(["true"]).run(tmp_path).ok


def test_equal_commands_have_equal_keys_and_pickle() -> None:
    command = Command(["a", "b"], env={"X": "1", "Y": None}, timeout_s=2)
    assert pickle.loads(pickle.dumps(command)) == command
    assert Command(("a", "b"), env={"Y": None, "X": "1"}, timeout_s=2).key == command.key
    others = [Command(["a", "b"]), Command(["ab"]), Command(["a", "b"], env={"X": "1"}, timeout_s=2)]
    assert len({command.key, *(other.key for other in others)}) == 4


@pytest.mark.parametrize(
    ("argv", "options", "error"),
    [
        ("ls -l", {}, TypeError),
        ([1], {}, TypeError),
        ([], {}, ValueError),
        (["ls"], {"timeout_s": 0}, ValueError),
        (["ls"], {"timeout_s": float("inf")}, ValueError),
        (["ls"], {"memory_bytes": -1}, ValueError),
        (["ls"], {"cwd": "/"}, ValueError),
        (["ls"], {"cwd": "a/../.."}, ValueError),
    ],
)
def test_what_no_command_can_have_is_refused(argv: object, options: dict[str, object], error: type) -> None:
    with pytest.raises(error):
        Command(argv, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_of_much_output_the_beginning_and_the_end_are_kept(limit: int) -> None:
    said = bytes(range(200)) * 2000
    kept = Kept(limit)
    for at in range(0, len(said), 70_001):
        kept.add(said[at : at + 70_001])
    value = kept.value()
    first, last = limit // 2, limit - limit // 2
    assert value == said[:first] + b"\n[... %d bytes ...]\n" % (len(said) - limit) + said[-last:]
    short = Kept(limit)
    short.add(said[:limit])
    assert short.value() == said[:limit]


# --- limits ---


def test_one_that_sleeps_is_killed_when_its_time_is_over(tmp_path: Path, mark: str) -> None:
    outcome = Command(["sleep", "1000"], timeout_s=0.1, env={MARK: mark}).run(tmp_path)
    assert outcome.timed_out
    assert outcome.returncode == -signal.SIGKILL


def test_one_that_counts_for_ever_is_killed_by_the_kernel(tmp_path: Path) -> None:
    outcome = python("while True: pass", cpu_s=1).run(tmp_path)
    assert outcome.timed_out
    assert outcome.returncode == -signal.SIGXCPU


def test_one_that_takes_all_memory_is_killed(tmp_path: Path, mark: str) -> None:
    program = "held = []\nwhile True: held.append(bytearray(b'x') * (8 << 20))"
    outcome = python(program, memory_bytes=128 << 20, env={MARK: mark}).run(tmp_path)
    assert outcome.out_of_memory
    assert outcome.peak_bytes > 128 << 20


def test_memory_of_children_counts_as_well(tmp_path: Path, mark: str) -> None:
    child = "import time; held = bytearray(b'x') * (48 << 20); time.sleep(1000)"
    start = f"p = subprocess.Popen([sys.executable, '-c', {child!r}])"
    program = f"import subprocess, sys\nfor _ in range(4): {start}\np.wait()"
    outcome = python(program, memory_bytes=128 << 20, env={MARK: mark}).run(tmp_path)
    assert outcome.out_of_memory


def test_memory_that_is_shared_counts_once(tmp_path: Path) -> None:
    program = (
        "import os, time\nheld = bytearray(b'x') * (64 << 20)\npids = []\n"
        "for _ in range(4):\n  pid = os.fork()\n  if not pid: time.sleep(0.2); os._exit(0)\n  pids.append(pid)\n"
        "for pid in pids: os.waitpid(pid, 0)"
    )
    assert python(program, memory_bytes=160 << 20).run(tmp_path).ok


def test_the_kernel_refuses_more_address_space(tmp_path: Path) -> None:
    outcome = python("bytearray(1 << 30)", address_space_bytes=512 << 20).run(tmp_path)
    assert outcome.returncode == 1
    assert "MemoryError" in outcome.text


def test_one_that_prints_for_ever_is_ended_and_its_output_bounded(tmp_path: Path, mark: str) -> None:
    outcome = Command(["yes"], flood_bytes=1 << 20, output_bytes=1000, env={MARK: mark}).run(tmp_path)
    assert outcome.limit == "output"
    assert outcome.output_size > 1 << 20
    assert len(outcome.output) < 1100


def test_files_cannot_grow_for_ever(tmp_path: Path) -> None:
    outcome = Command(["sh", "-c", "exec cat /dev/zero > big"], file_bytes=100_000).run(tmp_path)
    assert outcome.returncode == -signal.SIGXFSZ
    assert (tmp_path / "big").stat().st_size == 100_000


def test_processes_that_multiply_in_sessions_of_their_own_are_all_ended(tmp_path: Path, mark: str) -> None:
    """256 in the end, if nobody ends them."""
    program = "import os, time\nfor _ in range(8):\n  if not os.fork(): os.setsid()\ntime.sleep(1000)"
    outcome = python(program, processes_max=20, env={MARK: mark}).run(tmp_path)
    assert outcome.limit == "processes"


def test_whatever_it_left_running_ends_with_it(tmp_path: Path, mark: str) -> None:
    """Children in the background, grandchildren whose parent has gone, daemons; some hold its output open."""
    daemon = (
        "import os, time\nif not os.fork():\n  os.setsid()\n  if not os.fork(): print(1); time.sleep(1000)"
    )
    script = f"sleep 1000 & (setsid sleep 1000 &) ; {sys.executable} -c '{daemon}' & wait $!; trap '' TERM; echo done"
    outcome = Command(["sh", "-c", script], env={MARK: mark}).run(tmp_path)
    assert outcome.ok
    assert "done" in outcome.text


# --- deaths ---


def test_ctrl_c_ends_the_command_and_the_next_one_runs(tmp_path: Path, mark: str) -> None:
    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    started, main = tmp_path / "started", threading.main_thread().ident
    assert main is not None
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Command(["sh", "-c", "touch started; (setsid sleep 1000 &); sleep 1000"], env={MARK: mark}).run(
            tmp_path
        )
    thread.join()
    assert processes_marked(mark) == []
    assert Command(["true"]).run(tmp_path).ok


WORKER = """
import sys
from helios_shm.mcts.agent import Command
script = "(setsid sleep 1000 &); sleep 1000 & echo > started; wait"
Command(["sh", "-c", script], env={sys.argv[1]: sys.argv[2]}).run(".")
"""


def test_a_killed_worker_leaves_no_command_behind(tmp_path: Path, mark: str) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, MARK, mark], cwd=tmp_path, env={**untraced(), "PYTHONPATH": str(ROOT)}
    )
    while not (tmp_path / "started").exists():
        assert worker.poll() is None
        time.sleep(0.01)
    assert len(processes_marked(mark)) >= 3
    worker.kill()
    worker.wait()
    wait_until_none(mark)


def test_a_killed_keeper_is_an_error_and_the_command_dies_with_it(tmp_path: Path, mark: str) -> None:
    killed = []

    def kill() -> None:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        (command,) = processes_marked(mark)
        keeper = command.parent()
        assert keeper is not None
        killed.append(keeper.pid)
        keeper.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(ChildProcessError, match="keeper"):
        python("open('started', 'w'); import time; time.sleep(1000)", env={MARK: mark}).run(tmp_path)
    thread.join()
    assert killed
    wait_until_none(mark)
    assert Command(["true"]).run(tmp_path).ok


def test_threads_run_commands_side_by_side(tmp_path: Path) -> None:
    """Each waits for the other."""
    meet = "import os, time\nopen('{}', 'w')\nwhile not os.path.exists('{}'): time.sleep(0.01)"
    outcomes = []

    def run(mine: str, other: str) -> None:
        outcomes.append(python(meet.format(mine, other)).run(tmp_path))

    threads = [threading.Thread(target=run, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.ok for outcome in outcomes] == [True, True]


def test_a_forked_child_has_keepers_of_its_own(tmp_path: Path) -> None:
    assert Command(["true"]).run(tmp_path).ok
    pid = os.fork()
    if not pid:
        os._exit(0 if Command(["true"]).run(tmp_path).ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert Command(["true"]).run(tmp_path).ok
