"""tests/crash/power_loss.py, the model of a disk that loses power: what is synced stays, what is not may be anything
that it was, and the recorder tells the model what really happened."""

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.crash.power_loss import (
    ALLOCATE,
    CREATE,
    LINK,
    MKDIR,
    NOTE,
    RENAME,
    SECTOR,
    SYNC_BEGIN,
    SYNC_END,
    TRUNCATE,
    UNKNOWN,
    UNLINK,
    WHOLE,
    WRITE,
    Disk,
    Event,
    Found,
    Image,
    Plan,
    draw_plan,
    find_all,
    read_log,
)

RECORDER = Path(__file__).parents[1] / "crash" / "record_io.c"
TOP, FILE, DIRECTORY, OTHER = 1, 2, 3, 4
DRAWS = 300
A, B = b"a" * SECTOR, b"b" * SECTOR


def create(path: str, inode: int) -> Event:
    return Event(CREATE, 0, inode=inode, path=path)


def mkdir(path: str, inode: int) -> Event:
    return Event(MKDIR, 0, inode=inode, path=path)


def rename(path: str, other: str) -> Event:
    return Event(RENAME, 0, path=path, other=other)


def write(data: bytes, offset: int = 0, inode: int = FILE) -> Event:
    return Event(WRITE, 0, inode=inode, offset=offset, size=len(data), data=data)


def begin(inode: int, number: int, offset: int = 0, size: int = WHOLE) -> Event:
    return Event(SYNC_BEGIN, 0, inode=inode, number=number, offset=offset, size=size)


def end(number: int) -> Event:
    return Event(SYNC_END, 0, number=number)


def sync(inode: int, offset: int = 0, size: int = WHOLE) -> list[Event]:
    return [begin(inode, 77, offset, size), end(77)]


SYNCED_FILE = [create("file", FILE), write(A * 4), *sync(FILE), *sync(TOP)]


def disk_after(events: Iterable[Event], dropped: tuple[str, ...] = ()) -> Disk:
    disk = Disk([Found("", TOP, None)], dropped)
    for event in events:
        disk.apply(event)
    return disk


def images(events: Iterable[Event], dropped: tuple[str, ...] = ()) -> list[Image]:
    """Many states after a power cut at the end of these events."""
    disk, rng = disk_after(events, dropped), random.Random(1)
    return [disk.lose_power(draw_plan(rng, disk)) for _ in range(DRAWS)]


def contents(events: Iterable[Event], path: str = "file") -> set[bytes | None]:
    return {image.files.get(path) for image in images(events)}


def everything(disk: Disk) -> Image:
    return disk.lose_power(
        Plan("all", random.Random(1), lambda _: lambda _now, _sector: True, lambda _: disk.now)
    )


# ---- data ----


def test_what_was_synced_is_there_in_every_state() -> None:
    assert contents(SYNCED_FILE) == {A * 4}


def test_an_unsynced_write_is_there_or_not_or_torn_at_sectors() -> None:
    found = contents([*SYNCED_FILE, write(B * 4)])
    assert {A * 4, B * 4} < found
    assert found <= {b"".join(parts) for parts in _choices([A, B], 4)}
    assert len(found) > 10


def _choices(parts: list[bytes], count: int) -> Iterable[list[bytes]]:
    if count == 0:
        yield []
        return
    for rest in _choices(parts, count - 1):
        for part in parts:
            yield [*rest, part]


def test_a_later_write_may_be_there_without_an_earlier_one() -> None:
    found = contents([*SYNCED_FILE, write(B), write(B, 3 * SECTOR)])
    assert A * 3 + B in found and B + A * 3 in found


def test_a_sector_keeps_any_of_its_unsynced_versions_and_none_before_its_sync() -> None:
    versions = [bytes([letter]) * SECTOR for letter in b"bcd"]
    found = contents([*SYNCED_FILE, write(versions[0]), *sync(FILE), write(versions[1]), write(versions[2])])
    assert {content[:SECTOR] for content in found if content} == set(versions)


def test_what_is_written_while_a_sync_runs_is_not_covered_by_it() -> None:
    events = [*SYNCED_FILE, write(B), begin(FILE, 5), write(B, SECTOR), end(5)]
    assert {content[: 2 * SECTOR] for content in contents(events) if content} == {B + A, B + B}
    unfinished = [*SYNCED_FILE, write(B), begin(FILE, 5)]
    assert {content[:SECTOR] for content in contents(unfinished) if content} == {A, B}


def test_a_partial_write_takes_the_rest_of_its_sector_along() -> None:
    found = contents([*SYNCED_FILE, write(b"x", 10), write(b"y", 20)])
    assert all(content is not None and len(content) == 4 * SECTOR for content in found)
    assert {(content[10], content[20]) for content in found if content} == {
        (97, 97), (ord("x"), 97), (ord("x"), ord("y")),
    }  # fmt: skip


def test_a_synchronous_write_covers_its_pages_alone() -> None:
    far = 4 * 4096
    start = [*SYNCED_FILE, write(A, far), *sync(FILE), write(B), write(B, far)]
    found = contents([*start, *sync(FILE, far, 100)])
    assert {content[far:] for content in found if content} == {B}
    assert {content[:SECTOR] for content in found if content} == {A, B}


# ---- sizes ----


def test_a_file_that_grew_may_have_its_size_and_not_its_data() -> None:
    found = contents([*SYNCED_FILE, write(B, 4 * SECTOR)])
    grown = {content[4 * SECTOR :] for content in found if content}
    assert {b"", B, bytes(SECTOR)} < grown  # and what stood on the disk before


def test_a_file_that_was_cut_may_have_either_size() -> None:
    found = contents([*SYNCED_FILE, Event(TRUNCATE, 0, inode=FILE, size=SECTOR)])
    assert {A, A * 4} <= found
    assert all(content is not None and content[:SECTOR] == A for content in found)


def test_allocated_bytes_are_zeros() -> None:
    found = contents([*SYNCED_FILE, Event(ALLOCATE, 0, inode=FILE, offset=0, size=8 * SECTOR)])
    assert found == {A * 4, A * 4 + bytes(4 * SECTOR)}


# ---- names ----


def test_a_file_that_was_synced_has_no_name_before_its_directory_is() -> None:
    events = [create("file", FILE), write(A), *sync(FILE)]
    assert contents(events) == {None, A}
    assert contents([*events, *sync(TOP)]) == {A}


def test_a_directory_that_was_synced_has_no_name_either() -> None:
    events = [mkdir("d", DIRECTORY), create("d/file", FILE), write(A), *sync(FILE), *sync(DIRECTORY)]
    assert {image.directories for image in images(events)} == {("",), ("", "d")}
    assert contents([*events, *sync(TOP)], "d/file") == {A}


def test_a_rename_may_be_there_without_the_data() -> None:
    events = [*SYNCED_FILE, create("new", OTHER), write(B * 4, 0, OTHER), rename("new", "file")]
    found = contents(events)
    assert {A * 4, B * 4} <= found and any(content in (b"", bytes(4 * SECTOR)) for content in found)
    assert contents([*events[:-1], *sync(OTHER), events[-1]]) == {A * 4, B * 4}


def test_operations_of_a_directory_are_lost_from_the_end() -> None:
    events = [create(f"{n}", 10 + n) for n in range(5)] + [Event(UNLINK, 0, path="0")]
    found = {tuple(sorted(image.files)) for image in images(events)}
    names = [tuple(str(n) for n in range(count)) for count in range(6)]
    assert found == {*names, names[5][1:]}


def test_a_rename_between_directories_is_there_in_both_or_in_neither() -> None:
    events = [
        mkdir("a", DIRECTORY), mkdir("b", OTHER), create("a/file", FILE), *sync(TOP), *sync(DIRECTORY),
        rename("a/file", "b/file"), create("a/later", 9),
    ]  # fmt: skip
    found = {tuple(sorted(image.files)) for image in images(events)}
    assert found == {("a/file",), ("b/file",), ("a/later", "b/file")}
    assert all("b/file" in image.files for image in images([*events, *sync(DIRECTORY)]))


def test_a_link_is_another_name_of_the_same_file() -> None:
    events = [*SYNCED_FILE, Event(LINK, 0, path="file", other="more"), write(B * 4)]
    both = everything(disk_after(events)).files
    assert both == {"file": B * 4, "more": B * 4}


# ---- the rest ----


def test_lmdbs_lock_file_holds_anything() -> None:
    events = [create("lock.mdb", FILE), write(A), *sync(FILE), *sync(TOP)]
    assert len(contents(events, "lock.mdb")) > 10


@pytest.mark.parametrize("dropped", ["file", "directory", "range"])
def test_a_disk_that_drops_syncs_keeps_less(dropped: str) -> None:
    start = [*SYNCED_FILE, write(B), *sync(FILE, 0, SECTOR)]
    assert {image.files.get("file") for image in images(start)} == {B + A * 3}
    assert len({image.files.get("file") for image in images(start, (dropped,))}) > 1


def test_what_the_model_has_no_rule_for_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule"):
        disk_after([Event(UNKNOWN, 0, path="symlink")])


def test_the_same_seed_draws_the_same_state() -> None:
    disk = disk_after([*SYNCED_FILE, write(B * 4), create("more", OTHER)])

    def draw(seed: int) -> Image:
        return disk.lose_power(draw_plan(random.Random(seed), disk))

    assert [draw(seed) for seed in range(50)] == [draw(seed) for seed in range(50)]


# ---- the recorder ----

PROGRAM = """
import mmap, os, shutil, sys
os.chdir(sys.argv[1])
os.makedirs("a/b")
with open("a/b/file", "wb") as file:
    file.write(b"x" * 5000)
    file.flush()
    os.fsync(file.fileno())
fd = os.open("a/mapped", os.O_RDWR | os.O_CREAT, 0o600)
os.posix_fallocate(fd, 0, 9000)
mapping = mmap.mmap(fd, 9000)
mapping[4090:4100] = b"0123456789"
mapping.flush()
mapping[8999:] = b"!"
if os.fork() == 0:
    child = os.open("child", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC, 0o600)
    os.write(child, b"one")
    os.writev(child, [b"two", b"three"])
    os.pwrite(child, b"", 0)
    os._exit(0)
os.wait()
os.rename("a/b/file", "moved")
os.link("moved", "linked")
with open("linked", "r+b") as file:
    file.truncate(4000)
with open("child", "r+b") as file:
    file.seek(1)
    file.write(b"NE")
os.mkdir("gone")
open("gone/x", "w").close()
shutil.rmtree("gone")
open("a/empty", "w").close()
mapping.close()
"""


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("recorder") / "record_io.so"
    flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command = ["gcc", *flags, "-fvisibility=hidden", "-pthread", "-o", str(made), str(RECORDER), "-ldl"]
    subprocess.run(command, check=True)
    return made


@pytest.fixture
def recorded(recorder: Path, tmp_path: Path) -> Callable[[str], tuple[Path, list[Event], int]]:
    """Run a program; where it worked, what it did, how it ended."""

    def run(program: str) -> tuple[Path, list[Event], int]:
        top, log = tmp_path / "top", tmp_path / "log"
        top.mkdir()
        environment = {
            **os.environ,
            "LD_PRELOAD": str(recorder),
            "RECORD_ROOT": str(top),
            "RECORD_LOG": str(log),
        }
        done = subprocess.run([sys.executable, "-c", program, str(top)], env=environment)
        return top, read_log(log.read_bytes()), done.returncode

    return run


def replayed(top: Path, events: list[Event]) -> Disk:
    disk = Disk([Found("", top.stat().st_ino, None)])
    for event in events:
        disk.apply(event)
    return disk


def test_the_recorder_tells_the_model_what_the_program_did(
    recorded: Callable[[str], tuple[Path, list[Event], int]],
) -> None:
    top, events, status = recorded(PROGRAM)
    assert status == 0
    image = everything(replayed(top, events))
    truth = {found.path: found.data for found in find_all(top)}
    assert image.files == {path: data for path, data in truth.items() if data is not None}
    assert set(image.directories) == {path for path, data in truth.items() if data is None}


def test_the_recorder_sees_syncs_of_files_ranges_and_mappings(
    recorded: Callable[[str], tuple[Path, list[Event], int]],
) -> None:
    top, events, _ = recorded(PROGRAM)
    disk = replayed(top, events)
    nothing = disk.lose_power(
        Plan("none", random.Random(1), lambda _: lambda _n, _s: False, lambda _: disk.now)
    )
    assert nothing.files["moved"] == b"x" * 5000
    assert nothing.files["child"] == b"onetwothree"
    assert nothing.files["a/mapped"][4090:4100] == b"0123456789"
    begun = {event.number for event in events if event.kind == SYNC_BEGIN}
    assert begun == {event.number for event in events if event.kind == SYNC_END}
    assert len(begun) == 4


def test_a_process_that_is_killed_dies_between_two_operations_with_all_of_its_stores_on_record(
    recorded: Callable[[str], tuple[Path, list[Event], int]],
) -> None:
    top, events, status = recorded(
        "import ctypes, mmap, os, sys\n"
        "os.chdir(sys.argv[1])\n"
        "fd = os.open('mapped', os.O_RDWR | os.O_CREAT, 0o600)\n"
        "os.ftruncate(fd, 8192)\n"
        "mapping = mmap.mmap(fd, 8192)\n"
        "recorder = ctypes.CDLL(None)\n"
        "recorder.record_note(b'so far', ctypes.c_size_t(6))\n"
        "recorder.record_die_after(ctypes.c_long(1))\n"
        "mapping[:1], mapping[5000:5001] = b'1', b'2'\n"
        "os.mkdir('last')\n"
        "os.mkdir('never')\n"
    )
    assert status == -9
    assert [event.data for event in events if event.kind == NOTE] == [b"so far"]
    image = everything(replayed(top, events))
    assert "last" in image.directories and "never" not in image.directories
    assert (image.files["mapped"][0], image.files["mapped"][5000]) == (ord("1"), ord("2"))


def test_a_log_is_read_record_by_record() -> None:
    header = struct.Struct("<IIQQQQIIII")
    log = header.pack(RENAME, 7, 1, 2, 3, 4, 1, 2, 3, 0) + b"abbddd" + header.pack(NOTE, 8, *[0] * 8)
    assert read_log(log) == [Event(RENAME, 7, 1, 2, 3, 4, "a", "bb", b"ddd"), Event(NOTE, 8)]
