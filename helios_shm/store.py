"""A store's directory: which files it has, what ``helios.json`` says, and where a store cannot be.

    helios.json       format, uuid, when it was created, ephemeral or not; written once, last
    db/               LMDB: packs, log, branches, meta
    locator           hash -> (pack, row); may be missing, may be rebuilt
    blobs/ab/cdef...  large values
    worktrees/<id>    what a directory was known to hold, for ingest and materialize; may always be deleted
    locks/            gate, coordinator, start, participants: empty files whose kernel locks mean something
    leases/           which states each process holds (csrc/hs_lease.h); made when somebody opens the store
    gc.request        a collection that was asked for, gc.result what came of it
    coordinator.log   what the coordinator has to say
    coordinator.error why it cannot write, while it cannot

Pure but for reading: lifecycle.py makes stores.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import uuid as uuids
from dataclasses import dataclass
from pathlib import Path

from .errors import FormatError, NotFoundError, StoreError

FORMAT_VERSION = 1
INFO_NAME = "helios.json"
# It has some 150.
INFO_BYTES_MAX = 1 << 16
# Looks at a name that is listed and cannot be found: it has just appeared, or leads nowhere.
_LOOKS_MAX = 8
# So begins the name of the file that becomes helios.json; a directory that has one and no helios.json holds a store
# that is being made, or whose maker died.
UNFINISHED_PREFIX = f".{INFO_NAME}-"

# access(2): what says no, rather than that it could not be told.
_NOT_WRITABLE = frozenset(
    (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ETXTBSY)
)

# statfs(2): file systems whose locks or mappings do not hold between machines, or not at all.
_NETWORK_FILE_SYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x01021997: "9p",
    0x00C36400: "Ceph",
    0x47504653: "GPFS",
    0x0BD00BD0: "Lustre",
    0x5346414F: "AFS",
    0x73757245: "Coda",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
}


@dataclass(frozen=True, slots=True)
class StorePaths:
    """The files of the store at ``root``, an absolute path; they need not exist."""

    root: Path

    @property
    def info(self) -> Path:
        return self.root / INFO_NAME

    @property
    def db(self) -> Path:
        return self.root / "db"

    @property
    def locator(self) -> Path:
        return self.root / "locator"

    @property
    def locator_damaged(self) -> Path:
        """What a repair calls a damaged locator: asks the coordinator for a new one."""
        return self.root / "locator.damaged"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def worktrees(self) -> Path:
        return self.root / "worktrees"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def gate(self) -> Path:
        return self.locks / "gate"

    @property
    def coordinator_lock(self) -> Path:
        return self.locks / "coordinator"

    @property
    def start_lock(self) -> Path:
        return self.locks / "start"

    @property
    def participants(self) -> Path:
        return self.locks / "participants"

    @property
    def collect_lock(self) -> Path:
        """Held by who asks for a collection, until it is answered."""
        return self.locks / "collect"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    @property
    def gc_request(self) -> Path:
        return self.root / "gc.request"

    @property
    def gc_result(self) -> Path:
        return self.root / "gc.result"

    @property
    def log(self) -> Path:
        return self.root / "coordinator.log"

    @property
    def error_note(self) -> Path:
        return self.root / "coordinator.error"

    @staticmethod
    def of(path: str | os.PathLike[str]) -> StorePaths:
        """The files of the store at ``path``: absolute, symbolic links followed, so that a store has one name."""
        return StorePaths(Path(os.path.realpath(path)))


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What ``helios.json`` says."""

    uuid: bytes
    created: str
    ephemeral: bool


def info_bytes(info: StoreInfo) -> bytes:
    """``helios.json`` for a new store."""
    fields = {
        "format": FORMAT_VERSION,
        "uuid": uuids.UUID(bytes=info.uuid).hex,
        "created": info.created,
        "ephemeral": info.ephemeral,
    }
    return (json.dumps({"helios_shm": fields}, indent=1) + "\n").encode()


def info_parse(data: bytes, where: Path) -> StoreInfo:
    """Read ``helios.json``. FormatError for anything but this version's."""
    if len(data) > INFO_BYTES_MAX:
        raise FormatError(f"{where}: no description of a store: it has more than {INFO_BYTES_MAX} bytes")
    try:
        fields = json.loads(data)["helios_shm"]
        version = fields["format"]
        if version != FORMAT_VERSION:
            raise FormatError(
                f"{where}: store format {version!r}; this library reads and writes format {FORMAT_VERSION}"
            )
        created, ephemeral = fields["created"], fields["ephemeral"]
        if not isinstance(created, str) or not isinstance(ephemeral, bool):
            raise TypeError("created is a text, ephemeral true or false")
        return StoreInfo(uuids.UUID(hex=fields["uuid"]).bytes, created, ephemeral)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{where}: no description of a store: {error}") from error


def info_read(paths: StorePaths) -> StoreInfo:
    """What the store at ``paths`` is.

    Raises NotFoundError if there is nothing (or an empty directory), FormatError if there is something else.
    """
    for _ in range(_LOOKS_MAX):
        try:
            return info_parse(_info_bytes_read(paths.info), paths.info)
        except FileNotFoundError:
            pass
        except NotADirectoryError:
            raise FormatError(f"{paths.root}: not a directory, so no store") from None
        except OSError as error:
            raise StoreError(f"reading {paths.info}: {error.strerror}") from error
        names = _names_in(paths.root)
        if _are_vacant(names):
            raise NotFoundError(f"{paths.root}: there is no store")
        if INFO_NAME not in names:
            break
        # Somebody made it between the two looks.
    raise FormatError(f"{paths.root}: a directory with other contents and no {INFO_NAME}, so no store")


def _info_bytes_read(path: Path) -> bytes:
    """No more than can be right, and of a file alone: opening a pipe would wait for its writer."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FormatError(f"{path}: no file, so no description of a store")
        return file.read(INFO_BYTES_MAX + 1)


def is_vacant(root: Path) -> bool:
    """Could a store be made here: is there nothing, an empty directory, or a store that was not finished?"""
    try:
        return _are_vacant(_names_in(root))
    except FormatError:
        return False


def _are_vacant(names: list[str]) -> bool:
    unfinished = INFO_NAME not in names and any(name.startswith(UNFINISHED_PREFIX) for name in names)
    return not names or unfinished


def _names_in(root: Path) -> list[str]:
    """What is in a directory: nothing, if it is not there. FormatError if it is none."""
    try:
        return os.listdir(root)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise FormatError(f"{root}: not a directory, so no store") from None
    except OSError as error:
        raise StoreError(f"reading directory {root}: {error.strerror}") from error


def check_directory(root: Path) -> None:
    """The store's directory must be ours, and on a file system of this machine. FormatError, StoreError."""
    try:
        status = os.stat(root)
    except OSError as error:
        raise StoreError(f"{root}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise FormatError(f"{root}: not a directory, so no store")
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{root}: belongs to user {status.st_uid}, not to user {os.geteuid()}: a store is one user's"
        )
    check_file_system(root)


def check_file_system(directory: Path) -> None:
    """Refuse a network file system: locks and mappings there do not hold. FormatError."""
    kind = _file_system_kind(directory)
    name = _NETWORK_FILE_SYSTEMS.get(kind)
    if name is not None:
        raise FormatError(
            f"{directory}: on a network file system ({name}); a store needs a disk of this machine or tmpfs"
        )


def _file_system_kind(directory: Path) -> int:
    """statfs(2)'s f_type; 0 if it cannot be told."""
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_long * 64)()
    if libc.statfs(os.fsencode(directory), words) != 0:
        if ctypes.get_errno() in (errno.ENOENT, errno.EACCES):
            return 0
        raise StoreError(f"{directory}: statfs: {os.strerror(ctypes.get_errno())}")
    return int(words[0]) & 0xFFFFFFFF


def identity(root: Path) -> tuple[int, int]:
    """(device, inode) of the store's directory: tells a copy from its original. StoreError."""
    try:
        status = os.stat(root)
    except OSError as error:
        raise StoreError(f"{root}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def may_write(path: Path) -> bool:
    """May this process write there? StoreError if the system does not say: ``os.access`` would call that a no."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.access(os.fsencode(path), os.W_OK) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_WRITABLE:
        return False
    raise StoreError(f"{path}: {os.strerror(number)}")
