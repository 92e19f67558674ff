"""Runs cases of "fail at n", each in processes of its own that are forked from one that has everything imported.

    stage --order--> host --fork--> case's child: prepare | armed: act | act again | close | what is left?
                       |--forked once--> factory --fork--> coordinators, instead of `python -m helios_shm.coordinator`
                       \\--forked once--> judge: opens the store afterwards, with the segment gone, and reads it;
                                         has a coordinator process of its own

    python -m tests.crash.fail_host DIRECTORY       with fail_io.c preloaded; orders and answers are lines of JSON

A coordinator that is forked runs the same ``coordinator.main``; how one is started otherwise is a workload of its own.
Pauses that only spare a machine are shortened here, and nothing else. What the child has acknowledged arrives over a
pipe before the power is cut: then everything of the case is killed, its segment is removed, and files whose sync
failed lose their bytes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helios_shm
from helios_shm import config, coordinator, lifecycle
from helios_shm.store import StorePaths
from tests.crash.fail_io import Faults
from tests.crash.fail_workloads import RICH, WORKLOADS, Case, Workload

# Nothing takes this long unless it hangs; the product's own deadlines are set below it.
HANG_SECONDS = 30.0
DEADLINE_SECONDS = 10.0
# What an error may be: it says that something failed, and nothing that is not so ("there is no store").
HONEST = (helios_shm.StoreError, helios_shm.CapacityError, helios_shm.BusyError, MemoryError)
LIES = (helios_shm.FormatError, helios_shm.CorruptError)
TEMPORARY = (".tmp-", ".creating-", ".gone-", ".helios.json-", "locator.next")
LEAKED_STATUS = 3
# Descriptors of the host are below it.
FREE_FD = 100
SHARED_MEMORY = Path("/dev/shm")


def hasten() -> None:
    """Shorten what only waits."""
    settings: dict[Any, dict[str, Any]] = {
        coordinator: {
            "LINGER_SECONDS": 0.02,
            "RETRY_SECONDS_MIN": 0.005,
            "GATHER_SECONDS_QUIET": 0.0,
            "CHUNKS_AHEAD": 1,
        },
        lifecycle: {"_ERROR_PAUSE": 0.02},
        config: {
            "CACHE_BYTES": 1 << 20,
            "OPEN_DEADLINE": DEADLINE_SECONDS,
            "COMMIT_DEADLINE": DEADLINE_SECONDS,
            "DURABLE_DEADLINE": DEADLINE_SECONDS,
        },
    }
    for module, names in settings.items():
        for name, setting in names.items():
            assert hasattr(module, name)
            setattr(module, name, setting)


def open_descriptors() -> dict[str, str]:
    """What this process has open: number to target."""
    return {fd: target for fd in os.listdir("/proc/self/fd") if (target := _target(fd)) is not None}


def left_open(before: dict[str, str]) -> list[str]:
    """What is open now, and was not before. Pipes are ours, to the host."""
    now = open_descriptors()
    return [f"{fd}: {now[fd]}" for fd in now.keys() - before.keys() if "pipe:" not in now[fd]]


def _target(fd: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


# ---- coordinators ----


class Factory:
    """A process that forks coordinators, so that starting one costs milliseconds; or, if ``inline``, is one itself."""

    def __init__(self, faults: Faults, *, inline: bool = False) -> None:
        self._faults = faults
        self._inline = inline
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._armed: dict[str, Any] | None = None
        self._children: list[int] = []
        self._statuses: list[int] = []
        self._served: set[str] = set()
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            if inline:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            self._serve(theirs)
            os._exit(0)
        theirs.close()

    # In any process that was forked from the host.

    def start(self, paths: StorePaths, start_fd: int) -> None:
        """Instead of lifecycle._spawn: the new process has the start lock too, until it is the coordinator."""
        order = json.dumps({"do": "start", "path": os.fspath(paths.root)})
        socket.send_fds(self._ours, [order.encode()], [start_fd])

    # In the host.

    def arm(self, point: str, nth: int, pick: int) -> None:
        """The next coordinator that starts has a fault."""
        self._ours.send(json.dumps({"do": "arm", "point": point, "nth": nth, "pick": pick}).encode())

    def wait(self, kill: bool = False) -> list[int] | None:
        """The statuses of all coordinators, when they have ended; None: some do not end."""
        self._ours.send(json.dumps({"do": "kill" if kill else "wait"}).encode())
        ready, _, _ = select.select([self._ours], [], [], 2 * HANG_SECONDS)
        statuses: list[int] | None = json.loads(self._ours.recv(1 << 16)) if ready else None
        return statuses

    def end(self) -> None:
        self._ours.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    # In the factory.

    def _serve(self, orders: socket.socket) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(orders, 1 << 16, 1)
            if not message:
                return
            order = json.loads(message)
            if order["do"] == "arm":
                self._armed = order
            elif order["do"] == "start" and self._inline:
                os.close(descriptors[0])
                self._run_inline(order["path"])
            elif order["do"] == "start":
                self._fork_one(order["path"], descriptors[0])
            else:
                self._served.clear()
                orders.send(json.dumps(self._end(order["do"] == "kill")).encode())

    def _run_inline(self, path: str) -> None:
        """One that is asked for twice, since it was not there yet, runs once."""
        if path not in self._served:
            self._served.add(path)
            self._statuses.append(coordinator.main([path]))

    def _fork_one(self, path: str, start_fd: int) -> None:
        self._reap(os.WNOHANG)
        armed, self._armed = self._armed, None
        child = os.fork()
        if child == 0:
            _coordinate(self._faults, path, start_fd, armed)
        os.close(start_fd)
        self._children.append(child)

    def _reap(self, flags: int) -> None:
        for child in list(self._children):
            pid, status = os.waitpid(child, flags)
            if pid:
                self._children.remove(child)
                self._statuses.append(os.waitstatus_to_exitcode(status))

    def _end(self, kill: bool) -> list[int] | None:
        end = time.monotonic() + HANG_SECONDS
        hangs = False
        while self._children and not kill and not hangs:
            self._reap(os.WNOHANG)
            hangs = time.monotonic() > end
            time.sleep(0.002)
        for child in self._children:
            os.kill(child, signal.SIGKILL)
        self._reap(0)
        statuses, self._statuses, self._armed = self._statuses, [], None
        return None if hangs else [status for status in statuses if not kill or status != -signal.SIGKILL]


class Judge:
    """A process that opens stores, one after the other, and says what is wrong with them."""

    def __init__(self, faults: Faults) -> None:
        self._factory = Factory(faults, inline=True)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            lifecycle._spawn = self._factory.start
            while message := theirs.recv(1 << 20):
                theirs.send(json.dumps(_open_afterwards(**json.loads(message))).encode())
            os._exit(0)
        theirs.close()

    def ask(self, store: Path, acked: dict[str, int], commits: int) -> list[str] | None:
        """What is wrong with the store; None: it does not answer."""
        self._ours.send(json.dumps({"store": str(store), "acked": acked, "commits": commits}).encode())
        ready, _, _ = select.select([self._ours], [], [], HANG_SECONDS)
        if not ready:
            return None
        problems: list[str] = json.loads(self._ours.recv(1 << 20) or b'["the judge died"]')
        ended = self._factory.wait()
        return problems if ended is not None else [*problems, "its coordinator does not end"]

    def end(self) -> None:
        self._ours.close()
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._factory.end()


def _coordinate(faults: Faults, path: str, start_fd: int, armed: dict[str, Any] | None) -> None:
    """A coordinator's life, as ``python -m helios_shm.coordinator`` has it. Does not return."""
    status = LEAKED_STATUS
    try:
        high = fcntl.fcntl(start_fd, fcntl.F_DUPFD, FREE_FD)
        os.closerange(lifecycle.START_LOCK_FD, FREE_FD)
        os.dup2(high, lifecycle.START_LOCK_FD, inheritable=False)
        os.close(high)
        log = os.open(
            StorePaths(Path(path)).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        os.dup2(log, 2)
        os.close(log)
        before = open_descriptors()
        if armed is not None:
            _arm_coordinator(faults, **armed)
        status = coordinator.main([path])
        faults.disarm()
        gc.collect()
        leaked = left_open(before)
        if status == 0 and leaked:
            print("descriptors left open:", *leaked, file=sys.stderr, flush=True)
            status = LEAKED_STATUS
    except BaseException:
        faults.disarm()
        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _arm_coordinator(faults: Faults, do: str, point: str, nth: int, pick: int) -> None:
    if point == "start":
        run = coordinator.Coordinator.run

        def disarmed(self: coordinator.Coordinator) -> None:
            faults.disarm()
            run(self)

        coordinator.Coordinator.run = disarmed  # type: ignore[method-assign]
        faults.arm(0, nth, pick)
        return
    owner: Any = coordinator.Coordinator
    if point == "tend":
        owner = coordinator.LocatorKeeper
    method = getattr(owner, point)

    def armed(*arguments: Any) -> Any:
        if point == "tend":  # the table grows once
            owner.GROW_LOAD = 0.9 if arguments[0].table.info().capacity > owner.CAPACITY_MIN else -1.0
        if faults.text:
            return method(*arguments)
        faults.arm(0, nth, pick)
        try:
            return method(*arguments)
        finally:
            faults.disarm()

    setattr(owner, point, armed)


# ---- a case ----


class Host:
    """Runs one case at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        places = [f"{directory}/", "/dev/shm", "/proc/sys/kernel/random/boot_id"]
        self._faults = Faults(places)
        hasten()
        self._template = directory / "template"
        self._warm_up()
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection would touch, and so copy, every page in every child
        self._factory = Factory(self._faults)
        self._judge = Judge(self._faults)
        lifecycle._spawn = self._factory.start

    def _warm_up(self) -> None:
        """Make the store that cases begin with; in this process, so that its children find everything imported."""
        factory = Factory(self._faults)
        lifecycle._spawn = factory.start
        case = Case(self._template, {}, 0)
        for paths in (list(RICH)[:10], list(RICH)[10:]):
            case.commit({path: RICH[path] for path in paths})
        case.check_content()
        case.close()
        factory.wait()
        factory.end()
        handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
        coordinator.main([str(self._template)])
        for number, handler in handlers:
            signal.signal(number, handler)

    def run(self, workload: Workload, nth: int, pick: int) -> dict[str, Any]:
        """One case: what failed ("" if the nth call was not reached), and what is wrong."""
        self._number += 1
        directory = self._directory / f"case-{self._number}"
        directory.mkdir()
        store = directory / "store"
        self._faults.reset()
        known: dict[str, int] = {}
        if workload.made:
            _copy_store(self._template, store)
            known = dict(RICH)
        problems: list[str] = []
        if workload.point not in ("act", "forked"):
            self._factory.arm(workload.point, nth, pick)
        told = _in_child(lambda say: self._case(workload, store, known, nth, pick, say), HANG_SECONDS)
        problems += told.get("problems", [])
        statuses = self._factory.wait(kill=workload.cut)
        problems += self._coordinators_problems(store, statuses)
        if "acked" in told:
            if workload.cut:
                self._cut_power(store)
            problems += self._afterwards(directory, store, told)
        text = self._faults.text
        for segment in segments_of(store):  # of a case that went wrong; what it was is in its problems
            segment.unlink()
        if not problems:
            shutil.rmtree(directory)
        return {"fault": text, "problems": problems, "variants": self._faults.variants()}

    def end(self) -> None:
        self._factory.end()
        self._judge.end()

    def _coordinators_problems(self, store: Path, statuses: list[int] | None) -> list[str]:
        if statuses is None:
            return ["a coordinator does not end"]
        crashed = [status for status in statuses if status < 0]
        found = [f"a coordinator died of signal {-status}" for status in crashed]
        if LEAKED_STATUS in statuses:
            found.append(f"a coordinator left descriptors open: {_last_line(store / 'coordinator.log')}")
        return found

    def _cut_power(self, store: Path) -> None:
        """Everybody has been killed; shared memory goes, and with it what was never on disk."""
        for segment in segments_of(store):
            segment.unlink()
        for path in self._faults.lost():
            if path.name != "data.mdb":  # a new transaction writes its pages again, and syncs all of them
                _lose_bytes(path)

    def _afterwards(self, directory: Path, store: Path, told: dict[str, Any]) -> list[str]:
        """Open the store afterwards, without faults; then nothing may be left."""
        found = self._judge.ask(store, told["acked"], told["commits"])
        if found is None:
            self._judge.end()
            self._judge = Judge(self._faults)
            found = ["opening it hangs"]
        problems = [f"afterwards: {problem}" for problem in found]
        problems += [f"segment {path.name} is left" for path in segments_of(store)]
        names = [path.name for path in directory.rglob("*")]
        left = [name for name in names if any(part in name for part in TEMPORARY)]
        left += [name for name in os.listdir(directory) if name.startswith("helios")]
        if left:
            problems.append(f"files are left: {left[:3]}")
        return problems

    def _case(
        self,
        workload: Workload,
        store: Path,
        known: dict[str, int],
        nth: int,
        pick: int,
        say: Callable[[Any], None],
    ) -> None:
        """In a child of its own."""
        tempfile.tempdir = str(store.parent)
        before = open_descriptors()
        held = self._faults.held()
        case = Case(store, known, 2 if known else 0)
        workload.prepare(case)
        calls = 0
        if workload.point == "forked":
            self._in_fork(workload, case, before, held, nth, pick, say)
            return
        if workload.point == "act":
            calls = self._act_armed(workload, case, nth, pick)
        else:
            self._act(workload, case)
        if workload.cut:
            say({"acked": case.acked, "commits": case.commits, "problems": case.problems, "calls": calls})
            signal.pause()
        self._end_case(case, before, held, calls, say)

    def _act_armed(self, workload: Workload, case: Case, nth: int, pick: int) -> int:
        self._faults.arm(workload.generation, nth, pick)
        try:
            return self._act(workload, case)
        finally:
            self._faults.disarm()

    def _act(self, workload: Workload, case: Case) -> int:
        """Act; after an error that says what is so, act again without a fault."""
        try:
            workload.act(case)
            calls = self._faults.disarm()
            case.keep_promises()
            return calls
        except HONEST as error:
            calls = self._faults.disarm()
            if isinstance(error, LIES):
                case.problems.append(f"the error is not what happened: {type(error).__name__}: {error}")
        except Exception as error:
            calls = self._faults.disarm()
            case.problems.append(f"raised {_described(error)}")
        case.judge_failed_commit()
        workload.act(case)
        case.keep_promises()
        return calls

    def _in_fork(
        self,
        workload: Workload,
        case: Case,
        before: dict[str, str],
        held: tuple[int, int],
        nth: int,
        pick: int,
        say: Callable[[Any], None],
    ) -> None:
        """The workload goes on in a forked child with its parent's engine; the parent closes when it is done."""

        def child(say_here: Callable[[Any], None]) -> None:
            calls = self._act_armed(workload, case, nth, pick)
            self._end_case(case, before, held, calls, say_here)

        told = _in_child(child, HANG_SECONDS / 2)
        case.close()
        say(told)

    def _end_case(
        self,
        case: Case,
        before: dict[str, str],
        held: tuple[int, int],
        calls: int,
        say: Callable[[Any], None],
    ) -> None:
        """Close, and see that everything has been given back."""
        if case.acked and case.engine is not None:
            case.check_content()
        case.close()
        gc.collect()
        problems = case.problems
        if leaked := left_open(before):
            problems.append(f"descriptors left open: {sorted(leaked)}")
        now = self._faults.held()
        if now[0] > held[0] or now[1] > held[1]:
            problems.append(f"memory left: {now[0] - held[0]} blocks, {now[1] - held[1]} mapped bytes")
        maps = Path("/proc/self/maps").read_text()
        if f"{case.store}/" in maps or "/dev/shm" in maps:
            problems.append("files are still mapped")
        say({"acked": case.acked, "commits": case.commits, "problems": problems, "calls": calls})


def _open_afterwards(store: str, acked: dict[str, int], commits: int) -> list[str]:
    """The store opens, holds what was acknowledged, and takes another commit."""
    case = Case(Path(store), acked, commits)
    tempfile.tempdir = str(case.store.parent)
    try:
        lifecycle.sweep_ephemeral()
        if not case.store.exists():
            return []
        if commits:
            case.check_content()
        case.commit({"afterwards": 10}, durable=True)
        case.check_content()
        case.close()
    except Exception as error:
        case.problems.append(_described(error))
        with contextlib.suppress(Exception):
            case.close()
    gc.collect()
    return case.problems


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return f"{type(error).__name__} at {where}: {error}"


def _copy_store(store: Path, to: Path) -> None:
    """A copy in which the files that are never written again are links."""
    for directory, _, names in os.walk(store):
        made = to / os.path.relpath(directory, store)
        made.mkdir(mode=0o700)
        for name in names:
            source = f"{directory}/{name}"
            if "/blobs/" in source:
                os.link(source, made / name)
            else:
                shutil.copy(source, made / name)


def _lose_bytes(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    path.write_bytes(bytes(size))
    path.chmod(0o400)


def segments_of(store: Path) -> list[Path]:
    """The segments of the store at this path; of its copies elsewhere, none."""
    try:
        name = lifecycle.identify(StorePaths(store)).segment_name
    except helios_shm.HeliosError:
        return []
    return [path for path in (SHARED_MEMORY / name.lstrip("/"),) if path.exists()]


def _last_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").splitlines()[-1]
    except (OSError, IndexError):
        return ""


# ---- children ----


def _in_child(body: Callable[[Callable[[Any], None]], None], seconds: float) -> dict[str, Any]:
    """Run a function in a forked child; what it says, or how it ended without a word. Then it is killed."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _child(body, theirs)
    os.close(theirs)
    ready, _, _ = select.select([ours], [], [], seconds)
    said = _read_line(ours) if ready else b""
    hangs = "" if ready else _stack_of(pid)
    os.close(ours)
    if said or not ready:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if said:
        told: dict[str, Any] = json.loads(said)
        return told
    if not ready:
        return {"problems": [f"hangs: {hangs}"]}
    return {"problems": [f"died of signal {-status}" if status < 0 else f"ended with {status}"]}


def _child(body: Callable[[Callable[[Any], None]], None], pipe: int) -> None:
    def say(what: Any) -> None:
        os.write(pipe, json.dumps(what).encode() + b"\n")

    try:
        body(say)
    except BaseException as error:
        say({"problems": [f"without a fault: {_described(error)}"]})
    finally:
        os._exit(0)


def _read_line(fd: int) -> bytes:
    parts = b""
    while not parts.endswith(b"\n") and (part := os.read(fd, 1 << 16)):
        parts += part
    return parts


_stacks = tempfile.TemporaryFile("w+")  # noqa: SIM115 (children write to it as long as this process lives)


def _stack_of(pid: int) -> str:
    """Where a child is that does not answer: the innermost frames."""
    _stacks.seek(0)
    _stacks.truncate()
    os.kill(pid, signal.SIGUSR1)
    time.sleep(0.2)
    _stacks.seek(0)
    return " < ".join(line.strip() for line in _stacks.read().splitlines()[1:6])


def main() -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, _stacks, all_threads=False)
    answer = os.dup(1)
    os.dup2(2, 1)
    host = Host(Path(sys.argv[1]))
    by_name = {workload.name: workload for workload in WORKLOADS}
    for line in sys.stdin:
        order = json.loads(line)
        found = host.run(by_name[order["workload"]], order["nth"], order["pick"])
        os.write(answer, json.dumps(found).encode() + b"\n")
    host.end()


if __name__ == "__main__":
    main()
