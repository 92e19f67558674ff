"""The doctor finds what is wrong around a store, says what to do, and mends nothing that could be missed."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import helios_shm
from helios_shm import doctor, lifecycle, store
from helios_shm._capi import lib
from helios_shm.doctor import Finding, examine
from helios_shm.store import StorePaths
from tests.processes.rig import line_of, start_program, until, until_nothing_runs

SHARED_MEMORY = Path("/dev/shm")


def segment_of(path: Path) -> Path:
    return SHARED_MEMORY / lifecycle.identify(StorePaths.of(path)).segment_name.lstrip("/")


def found_at(path: Path, *, fix: bool = False, segment: Path | None = None) -> list[Finding]:
    """What is found about one store: other sessions' segments come and go, and the machine is as it is."""
    return [
        finding
        for finding in examine(path if path.exists() else None, fix=fix)
        if finding.subject not in ("machine", "kernel", "shared memory", "limits", "ephemeral stores")
        and (not finding.message.startswith(f"{SHARED_MEMORY}/") or str(segment) in finding.message)
    ]


def subjects(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.subject) for finding in findings]


def leave_by_force(path: Path, *, persisted: bool) -> Path:
    """A store whose coordinator and only participant were killed, with a commit of theirs. Returns its segment."""
    program = start_program(
        """
import os, signal, sys, helios_shm
engine = helios_shm.open(sys.argv[1])
branch = engine.branch("main")
with branch.transaction() as ws:
    ws["a"] = b"first"
engine.sync()
stop = signal.SIGKILL
os.kill(engine.stats().coordinator_pid, signal.SIGKILL if sys.argv[2] == "0" else 0)
with branch.transaction() as ws:
    ws["a"] = b"second"
if sys.argv[2] == "1":
    engine.sync()
    os.kill(engine.stats().coordinator_pid, signal.SIGKILL)
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""",
        path,
        int(persisted),
    )
    assert line_of(program) == "ready"
    program.communicate()
    until("the coordinator's lock is free", lambda: not lifecycle.is_in_use(StorePaths.of(path)))
    return segment_of(path)


def test_open_store_has_nothing_to_do(engine: helios_shm.Engine) -> None:
    with engine.branch("main").transaction() as ws:
        ws["a"] = b"1"
    engine.sync()
    assert found_at(engine.path) == []


def test_machine_alone_is_looked_at_without_a_store(tmp_path: Path) -> None:
    assert [finding for finding in examine(None) if finding.subject == "store"] == []
    assert subjects(list(examine(tmp_path / "nowhere")))[-1] == ("error", "store")


def test_mode_that_lets_others_in_is_taken_back(engine: helios_shm.Engine) -> None:
    (engine.path / "db").chmod(0o755)
    (engine.path / "helios.json").chmod(0o644)
    found = found_at(engine.path)
    assert subjects(found) == [("warning", "permissions")] * 2 and not any(each.mended for each in found)
    assert all(each.mended for each in found_at(engine.path, fix=True))
    assert (engine.path / "db").stat().st_mode & 0o777 == 0o700
    assert found_at(engine.path) == []


def test_large_value_and_link_are_known_from_files(engine: helios_shm.Engine) -> None:
    with engine.branch("main").transaction() as ws:
        ws["large"] = bytes(300_000)
    engine.sync()
    assert found_at(engine.path) == []
    os.symlink("/etc/passwd", engine.path / "link")
    found = found_at(engine.path, fix=True)
    assert subjects(found) == [("warning", "permissions")] and not found[0].mended


@pytest.mark.parametrize("persisted", [False, True])
def test_store_that_was_left_by_force_is_put_in_order_and_loses_nothing(
    store_path: Path, persisted: bool
) -> None:
    segment = leave_by_force(store_path, persisted=persisted)
    found = subjects(found_at(store_path))
    assert ("warning", "participants") in found
    assert ("warning", "segment" if persisted else "coordinator") in found
    assert segment.exists(), "looking changes nothing"
    assert all(each.mended for each in found_at(store_path, fix=True))
    until_nothing_runs(store_path)
    assert found_at(store_path) == [] and not segment.exists()
    with helios_shm.open(store_path) as engine:
        assert engine.branch("main").head["a"] == b"second"


def test_leases_of_the_dead_are_told_from_those_of_the_living(engine: helios_shm.Engine) -> None:
    engine.sync()
    leases = StorePaths.of(engine.path).leases
    program = start_program(
        """
import sys
from helios_shm._capi import ffi, lib
held = ffi.new("hs_leases **")
assert lib.hs_leases_open(sys.argv[1].encode(), held) == 0 and lib.hs_leases_publish(held[0]) == 0
print("held", flush=True)
sys.stdin.read()
""",
        leases,
    )
    assert line_of(program) == "held"
    tables = set(os.listdir(leases))
    assert tables and found_at(engine.path) == []
    program.kill()
    program.communicate()
    assert subjects(found_at(engine.path)) == [("note", "leases")]
    assert [each.mended for each in found_at(engine.path, fix=True)] == [True]
    assert len(tables - set(os.listdir(leases))) == 1 and found_at(engine.path) == []


def test_segment_of_a_store_that_is_gone_is_removed(store_path: Path) -> None:
    segment = leave_by_force(store_path, persisted=True)
    shutil.rmtree(store_path)
    assert subjects(found_at(store_path, segment=segment)) == [("warning", "segment")]
    assert segment.exists()
    assert [each.mended for each in found_at(store_path, fix=True, segment=segment)] == [True]
    assert not segment.exists()


def test_segment_that_alone_has_commits_is_never_removed(store_path: Path, tmp_path: Path) -> None:
    segment = leave_by_force(store_path, persisted=False)
    elsewhere = tmp_path / "moved"
    store_path.rename(elsewhere)
    found = found_at(store_path, fix=True, segment=segment)
    assert subjects(found) == [("warning", "segment")] and not found[0].mended
    with helios_shm.open(elsewhere) as engine:
        assert engine.branch("main").head["a"] == b"second"


def test_segment_in_use_is_nobody_elses_to_remove(engine: helios_shm.Engine, tmp_path: Path) -> None:
    segment = segment_of(engine.path)
    assert found_at(tmp_path / "none", fix=True, segment=segment) == []
    assert segment.exists()
    with pytest.raises(BlockingIOError):
        doctor._remove_segment(segment)
    assert segment.exists()


def test_segment_of_another_version_is_told_by_its_layout(store_path: Path) -> None:
    segment = leave_by_force(store_path, persisted=True)
    with open(segment, "r+b") as file:
        file.seek(8)
        file.write((77).to_bytes(4, "little"))
    found = found_at(store_path, segment=segment)
    assert subjects(found)[0] == ("error", "segment") and "layout 77" in found[0].message
    shutil.rmtree(store_path)
    found = found_at(store_path, fix=True, segment=segment)
    assert subjects(found) == [("warning", "segment")] and not found[0].mended
    segment.unlink()


def test_store_of_another_format_is_an_error(engine: helios_shm.Engine) -> None:
    description = engine.path / "helios.json"
    before = description.read_text()
    description.write_text(before.replace('"format": 1', '"format": 9'))
    found = found_at(engine.path)
    description.write_text(before)
    assert subjects(found) == [("error", "store")] and "9" in found[0].message


def test_what_the_coordinator_reports_is_passed_on(engine: helios_shm.Engine) -> None:
    note, log = engine.path / "coordinator.error", engine.path / "coordinator.log"
    note.write_text("No space left on device\n")
    note.chmod(0o600)
    with open(log, "a") as file:
        file.write("2026-01-01 00:00:00,000 1 ERROR a round failed\n")
    found = found_at(engine.path)
    assert subjects(found) == [("error", "coordinator"), ("note", "coordinator")]
    assert "No space left" in found[0].message and "a round failed" in found[1].message


def test_stopped_process_is_named(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine:
        program = start_program(
            "import sys, helios_shm; engine = helios_shm.open(sys.argv[1]); print('in', flush=True); sys.stdin.read()",
            store_path,
        )
        assert line_of(program) == "in"
        os.kill(program.pid, signal.SIGSTOP)
        try:
            until("it is stopped", lambda: doctor._is_stopped(program.pid))
            found = found_at(engine.path)
        finally:
            os.kill(program.pid, signal.SIGCONT)
            program.communicate()
        assert subjects(found) == [("warning", "participants")] and str(program.pid) in found[0].message


def test_damaged_locator_is_built_anew(store_path: Path) -> None:
    with helios_shm.open(store_path) as engine, engine.branch("main").transaction() as ws:
        ws["a"] = b"1"
    until_nothing_runs(store_path)
    (store_path / "locator").write_bytes(b"no locator")
    assert subjects(found_at(store_path)) == [("warning", "locator")]
    assert [each.mended for each in found_at(store_path, fix=True)] == [True]
    until_nothing_runs(store_path)
    assert found_at(store_path) == [] and not (store_path / "locator.damaged").exists()
    with helios_shm.open(store_path) as engine:
        assert engine.check().ok


def test_what_makers_and_removers_left_is_removed(engine: helios_shm.Engine) -> None:
    making = engine.path.parent / ".store.creating-0123abcd"
    gone = engine.path.parent / "store.gone-0123abcd"
    for path in (making, gone):
        (path / "locks").mkdir(parents=True)
    assert subjects(found_at(engine.path)) == [("warning", "leftovers")] * 2
    assert all(each.mended for each in found_at(engine.path, fix=True))
    assert not making.exists() and not gone.exists()


def test_ephemeral_store_of_a_dead_process_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{lifecycle.EPHEMERAL_PREFIX}4194304-1-00000000").mkdir()
    lifecycle.create_store(
        StorePaths.of(tmp_path / f"{lifecycle.EPHEMERAL_PREFIX}4194304-2-00000000"), ephemeral=True
    )
    with helios_shm.open(None) as engine:
        engine.sync()
        found = [each for each in examine(None, fix=True) if each.subject == "ephemeral stores"]
        assert len(found) == 1 and found[0].mended
        assert engine.path.exists(), "one whose process lives stays"
    assert not (tmp_path / f"{lifecycle.EPHEMERAL_PREFIX}4194304-2-00000000").exists()


# --- the machine, as others have it ---


class Room:
    """What statvfs says of a small /dev/shm, such as a container's."""

    f_frsize = 4096
    f_files = f_favail = 100

    def __init__(self, total: int, free: int) -> None:
        self.f_blocks, self.f_bavail = total // 4096, free // 4096


@pytest.mark.parametrize(("free", "severity"), [(64 << 20, "warning"), (2 << 20, "error")])
def test_small_shared_memory_is_measured_against_the_ring(
    free: int, severity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: Room(64 << 20, free))
    found = [each for each in examine(None) if each.subject == "shared memory"]
    assert [each.severity for each in found] == [severity] and "--shm-size" in found[0].advice


def test_full_disk_is_an_error(engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: Room(1 << 30, 0))
    assert ("error", "disk") in subjects(found_at(engine.path))
    monkeypatch.setattr(os, "statvfs", lambda path: Room(1 << 30, 1 << 20))
    assert ("warning", "disk") in subjects(found_at(engine.path))


def test_limits_of_a_process_are_found() -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    program = (
        "from helios_shm.doctor import examine; print(*(each.message for each in examine(None)), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], preexec_fn=limit, capture_output=True, text=True, check=True
    )
    assert "address space is limited" in done.stdout and "100 files" in done.stdout


def test_network_file_system_is_an_error(engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_file_system_kind", lambda directory: 0x6969)
    found = found_at(engine.path)
    assert subjects(found) == [("error", "store")] and "NFS" in found[0].message


def test_store_of_another_user_is_an_error(
    engine: helios_shm.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    found = found_at(engine.path)
    assert subjects(found) == [("error", "store")] and f"user {own}" in found[0].message


def test_kernel_without_what_is_needed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._has_syscall("openat2") and doctor._has_file_locks()
    monkeypatch.setitem(doctor._SYSCALLS, "openat2", 100_000)
    assert [each.message for each in examine(None) if each.subject == "kernel" and "openat2" in each.message]


def test_survey_says_who_takes_part(engine: helios_shm.Engine) -> None:
    found = doctor.survey(segment_of(engine.path).name)
    assert found is not None and found.is_own and not found.ephemeral
    assert [found.pids[i] for i in range(found.participants)] == [os.getpid()]
    assert found.own_fingerprint == found.fingerprint != 0 and lib.HS_SURVEY_SLOTS == 1024
    assert doctor.survey("helios-none") is None
