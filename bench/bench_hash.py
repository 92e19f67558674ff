"""What a commit costs beyond the hashing that it cannot avoid: in the C core alone, and through Python.

    floor      BLAKE3 of as many 64-byte blocks as our commit compresses: value, nodes on the path, record
    C          hs_commit_one in a loop in C (native.c), compiled here; without a compiler the row is left out
    Python     workspace[path] = value; workspace.commit()

All take turns, so that the floor's clock rate is ours.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helios_shm
from helios_shm._capi import ffi, lib
from helios_shm.workspace import continued

from .baselines import alone, wheel_messages
from .harness import (
    FLOOR,
    Contender,
    Edits,
    Items,
    Row,
    Setting,
    Target,
    compare,
    idle_pair,
    measure,
    path_key,
    sized,
)
from .states import attachment, blocks_hashed, build, commits, directory, store

SOURCE = Path(__file__).with_name("native.c")
BATCH = 50


def compiled_library(place: Path) -> Any:
    """native.c, loaded; None without a compiler."""
    compiler = shutil.which("cc")
    if not compiler:
        return None
    target = place / "native.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(target), str(SOURCE)], check=True)
    return ctypes.CDLL(str(target))


def compiled(place: Path) -> Any:
    """The loop, loaded; None without a compiler."""
    library = compiled_library(place)
    if library is None:
        return None
    loop = library.bench_commits
    pointer, size = ctypes.c_void_p, ctypes.c_uint32
    loop.argtypes = [*[pointer] * 5, ctypes.c_char_p, size, ctypes.c_char_p, size, size, size, pointer]
    loop.restype = size
    return loop


def address(data: Any) -> int:
    """Where something of cffi's stands."""
    return int(ffi.cast("uintptr_t", data))


class Native:
    """The core's own commits of one branch, in the loop in C."""

    def __init__(self, loop: Any, branch: helios_shm.Branch, edits: Edits) -> None:
        self.loop, self.branch, self.edits = loop, branch, edits
        self.base = ffi.new("uint8_t[]", branch.fork()._base)
        self.last = ffi.new("int64_t *")
        self.commit = address(ffi.addressof(lib, "hs_commit_one"))

    def inputs(self, count: int) -> Items:
        """All of a batch in one item, back to back as the loop wants them."""
        pairs = self.edits.as_bytes(count)
        return [(b"".join(key for key, _ in pairs), b"".join(value for _, value in pairs), count)]

    def run(self, items: Items) -> None:
        held = attachment(self.branch.engine)
        call, ref = held.call(), self.branch._ref
        key_size, value_size = len(path_key(0)), self.edits.values.size
        try:
            for keys, values, count in items:
                done = 0
                while done < count:
                    done += self.loop(
                        self.commit, address(call.c), address(ref), address(self.base), address(call.memory),
                        keys[done * key_size :], key_size, values[done * value_size :], value_size, count - done,
                        lib.HS_LOOK_AFTER, address(self.last),
                    )  # fmt: skip
                    if self.last[0] < 0:  # it asks for something, and goes on then
                        if continued(held, call, ref, self.last[0], "a commit") < 0:
                            raise RuntimeError(f"the core answers {self.last[0]}")
                        self.base[0:40] = call.data[16:56]
                        done += 1
                    elif self.last[0] & lib.HS_LOOK_AFTER:
                        held.look_after()
        finally:
            held.pool.append(call)


def hashing(setting: Setting) -> Iterator[Row]:
    """States of 100 keys, on a branch."""
    with store(setting) as engine, directory(setting.disk) as place:
        loop = compiled(place)
        for size in (1024, 48):
            native, python = (engine.branch(f"{size}/{name}") for name in ("native", "python"))
            for branch in (native, python):
                build(branch, 100, size)
            edits, count, run = Edits(100, size), setting.scale(1_000, 50), commits(python.fork())
            before = blocks_hashed(engine)
            run(edits.as_text(count))
            blocks = (blocks_hashed(engine) - before) / count
            contenders = [*wheel_messages(), Contender("Python", run, edits.as_text, idle_pair)]
            if loop:
                core = Native(loop, native, edits)
                contenders.append(Contender("C", core.run, core.inputs))
            short, long, *ours = measure(contenders, rounds=setting.scale(100, 5), calls=3, batch=BATCH)
            floor = alone(blocks, short, long)
            for each in ours:
                targets = (Target("<=", 1.6, FLOOR),) if each.name == "C" else ()
                name = f"commit 1 key of 100 x {sized(size)}, {blocks:.1f} blocks hashed, {each.name}"
                yield compare(name, each, [], *targets, floor=floor)
