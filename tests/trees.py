"""Directories as tests see them: made and read by the standard library alone."""

import os
import stat
from pathlib import Path

from helios_shm import Engine, Snapshot

Tree = dict[str, tuple[str, bytes]]


def tree_of(root: Path) -> Tree:
    """What a directory holds, by the standard library alone: path -> (kind, bytes)."""
    found: Tree = {}
    for place, directories, names in os.walk(root):
        for name in [*directories, *names]:
            path = Path(place) / name
            key = str(path.relative_to(root))
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                found[key] = ("symlink", os.fsencode(os.readlink(path)))
            elif stat.S_ISDIR(mode):
                if not os.listdir(path):
                    found[key] = ("directory", b"")
            elif stat.S_ISREG(mode):
                found[key] = ("executable" if mode & stat.S_IXUSR else "file", path.read_bytes())
    return found


def entries_of(snapshot: Snapshot, prefix: str = "") -> Tree:
    return {path[len(prefix) :]: (snapshot.stat(path).kind, snapshot[path]) for path in snapshot.keys(prefix)}


def plant(root: Path, tree: Tree) -> Path:
    """Make a directory that holds this."""
    root.mkdir(parents=True, exist_ok=True)
    for key, (kind, data) in tree.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "symlink":
            os.symlink(data, path)
        elif kind == "directory":
            path.mkdir()
        else:
            path.write_bytes(data)
            path.chmod(0o755 if kind == "executable" else 0o644)
    return root


def state(engine: Engine, tree: Tree) -> Snapshot:
    ws = engine.empty.fork()
    for path, (kind, data) in tree.items():
        ws.put(path, data, kind=kind)  # type: ignore[arg-type]
    return ws.commit().snapshot
