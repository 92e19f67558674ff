"""The command line as a program of its own: statuses, pipes, terminals, signals, and what a shell asks of it."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import helios_shm
from tests.command_line import call as call_here
from tests.command_line import good
from tests.processes.rig import SECONDS_MAX, until
from tests.programs import untraced

PROGRAM = [sys.executable, "-m", "helios_shm"]
ESCAPE = "\x1b["


def environment(**more: str) -> dict[str, str]:
    """As a user's, with nothing that says what a terminal can."""
    kept = {
        name: value
        for name, value in untraced().items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "HELIOS_STORE")
    }
    return {**kept, "TERM": "xterm-256color", "COLUMNS": "100", **more}


def call(*arguments: object, given: bytes = b"", **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)], input=given, capture_output=True, env=environment(**more),
        timeout=SECONDS_MAX, check=False,
    )  # fmt: skip


def start(*arguments: object, **more: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=environment(**more),
    )  # fmt: skip


@pytest.fixture
def held(store_path: Path) -> Iterator[helios_shm.Engine]:
    """A store that stays open, so that each command finds its segment and coordinator."""
    with helios_shm.open(store_path, l1_bytes=8 << 20) as engine:
        with engine.branch("main").transaction("begin") as ws:
            ws["a"] = b"1"
        yield engine


class Terminal:
    """A program on a terminal of its own, as a user has it."""

    def __init__(self, *arguments: object, **more: str) -> None:
        pid, self._fd = pty.fork()
        if pid == 0:
            os.execve(PROGRAM[0], [*PROGRAM, *map(str, arguments)], environment(**more))
        self.pid = pid
        self.seen = ""

    def read_until(self, pattern: str) -> str:
        """What it shows, up to something, or to its end."""
        end = time.monotonic() + SECONDS_MAX
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"it never showed {pattern!r}: {self.seen!r}"
            if select.select([self._fd], [], [], 0.2)[0] and not self._take():
                break
        return self.seen

    def _take(self) -> bool:
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def end(self) -> int:
        """Read to its end; its exit status."""
        self.read_until(r"(?!)")
        _, status = os.waitpid(self.pid, 0)
        os.close(self._fd)
        return os.waitstatus_to_exitcode(status)


# --- bytes and statuses ---


def test_bytes_go_in_and_out_as_they_are(held: helios_shm.Engine) -> None:
    value = bytes(range(256)) * 5000
    assert call("put", "binary", "-", "--store", held.path, given=value).returncode == 0
    assert held.branch("main").head["binary"] == value
    done = call("--store", held.path, "cat", "binary", "a")
    assert (done.returncode, done.stdout, done.stderr) == (0, value + b"1", b"")


def test_names_are_exact_with_null_and_visible_without(held: helios_shm.Engine) -> None:
    with held.branch("main").transaction() as ws:
        ws["line\nbreak \x1b[31m"] = b""
    assert call("--store", held.path, "ls", "-0").stdout == b"a\0line\nbreak \x1b[31m\0"
    assert good("ls", store=held.path).raw == b"a\nline\\nbreak \\x1b[31m\n"


def test_error_has_its_status_and_one_sentence(held: helios_shm.Engine) -> None:
    for arguments, status in ((["commit"], 2), (["cat", "nowhere"], 3)):
        done = call("--store", held.path, *arguments)
        assert done.returncode == status
        assert done.stderr.count(b"error: ") == 1 and b"Traceback" not in done.stderr


# --- pipes, interrupts ---


def test_reader_that_goes_away_ends_it_without_a_word(held: helios_shm.Engine) -> None:
    with held.branch("main").transaction() as ws:
        ws.update({f"key/{number:05}" * 8: b"" for number in range(20_000)})
    program = start("--store", held.path, "ls", "-r")
    assert program.stdout is not None and program.stderr is not None
    assert program.stdout.readline() == b"a\n"
    program.stdout.close()
    assert program.stderr.read() == b""
    program.stderr.close()
    assert program.wait(SECONDS_MAX) == 141


def test_watch_prints_a_commit_when_it_comes_and_ctrl_c_ends_it(held: helios_shm.Engine) -> None:
    program = start("--store", held.path, "watch", "--after", "1", "--json")
    assert program.stdout is not None
    branch = held.branch("main")
    for number in range(2, 5):
        with branch.transaction(f"change {number}") as ws:
            ws["a"] = b"%d" % number
        assert json.loads(program.stdout.readline())["sequence"] == number
    program.send_signal(signal.SIGINT)
    _, told = program.communicate(timeout=SECONDS_MAX)
    assert program.returncode == 130 and told == b"helios-shm: interrupted\n"


def test_watch_runs_a_command_for_each_commit(held: helios_shm.Engine, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    script = f'echo "$HELIOS_BRANCH $HELIOS_SEQUENCE $HELIOS_MESSAGE $HELIOS_STORE" >> {heard}'
    program = start("--store", held.path, "watch", "--after", "0", "-n", "2", "--", "sh", "-c", script)
    until("the first is heard", heard.exists)
    with held.branch("main").transaction("again") as ws:
        ws["a"] = b"2"
    program.communicate(timeout=SECONDS_MAX)
    assert heard.read_text() == f"main 1 begin {held.path}\nmain 2 again {held.path}\n"


def test_run_keeps_the_scratch_directory_where_it_is_asked_to(
    held: helios_shm.Engine, tmp_path: Path
) -> None:
    done = call(
        "--store",
        held.path,
        "run",
        "--keep",
        "--",
        "sh",
        "-c",
        "cat a; echo 2 > b; kill -9 $$",
        TMPDIR=str(tmp_path),
    )
    assert (done.returncode, done.stdout) == (137, b"1")
    kept = Path(re.search(rb"kept: (.*)", done.stderr)[1].decode())  # type: ignore[index]
    assert (kept / "b").read_text() == "2\n" and "b" not in held.branch("main").head


def test_output_that_cannot_be_written_is_an_error_of_the_file(held: helios_shm.Engine) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "--store", held.path, "ls"], stdout=full, stderr=subprocess.PIPE, env=environment(),
            timeout=SECONDS_MAX, check=False,
        )  # fmt: skip
    assert done.returncode == 10 and done.stderr == b"helios-shm: error: No space left on device\n"


# --- terminals ---


def test_output_has_colours_on_a_terminal_and_nowhere_else(held: helios_shm.Engine) -> None:
    assert ESCAPE.encode() not in call("--store", held.path, "log").stdout
    for variables, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        terminal = Terminal("--store", held.path, "log", "--oneline", **variables)
        assert terminal.end() == 0
        assert (ESCAPE in terminal.seen) is coloured, terminal.seen
        assert "begin" in terminal.seen


def test_bar_is_shown_on_a_terminal_and_nowhere_else(held: helios_shm.Engine, tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"file{number}").write_text(f"{number}")
    terminal = Terminal("--store", held.path, "ingest", tmp_path, "--exclude", "store")
    assert terminal.end() == 0
    assert "ingesting" in terminal.seen and "50 paths set" in terminal.seen
    dumb = Terminal("--store", held.path, "ingest", tmp_path, "--exclude", "store", TERM="dumb")
    assert dumb.end() == 0 and dumb.seen.strip() == "nothing has changed"


def test_top_is_live_and_q_leaves(held: helios_shm.Engine) -> None:
    terminal = Terminal("--store", held.path, "top", "-i", "0.1")
    terminal.read_until(r"1 in all")
    with held.branch("main").transaction() as ws:
        ws["a"] = b"2"
    terminal.read_until(r"2 in all")
    terminal.press("q")
    assert terminal.end() == 0 and "Traceback" not in terminal.seen


def test_destroy_asks_and_refuses_while_others_use_the_store(held: helios_shm.Engine) -> None:
    refused = call_here("destroy", "--yes", store=held.path)
    assert refused.status == 5 and f"first: {os.getpid()}" in refused.err and held.path.exists()
    assert call_here("destroy", store=held.path).status == 130, "no answer is no yes"
    terminal = Terminal("--store", held.path, "destroy", "--force")
    terminal.read_until("y/N")
    terminal.press("y\n")
    assert terminal.end() == 0 and not held.path.exists()
    with contextlib.suppress(helios_shm.HeliosError):  # it was taken away under our hands
        held.close()


# --- around it ---


def test_without_its_libraries_it_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path), str(Path(helios_shm.__file__).parents[1])])
    done = call("ls", PYTHONPATH=path)
    assert done.returncode == 2
    assert b'pip install "helios-shm[cli]"' in done.stderr and b"Traceback" not in done.stderr
