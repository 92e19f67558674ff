"""The preloaded library fail_io.c, as Python in a process that has it sees it."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterable
from pathlib import Path

SOURCE = Path(__file__).with_name("fail_io.c")
_LOST_BYTES = 1 << 14


def build(directory: Path) -> Path:
    """The library to be preloaded, compiled into a directory."""
    made = directory / "fail_io.so"
    flags = ["-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    subprocess.run(["gcc", *flags, "-o", made, SOURCE, "-ldl"], check=True)
    return made


class Faults:
    """What fail_io.c exports. Its shared page is one for this process and all that it forks afterwards."""

    def __init__(self, places: Iterable[str]) -> None:
        library = ctypes.CDLL(None)
        self._library = library
        library.fail_text.restype = ctypes.c_char_p
        if library.fail_watch("\n".join(places).encode()) != 0:
            raise RuntimeError("the core or LMDB is not loaded, so its calls cannot be told from others")

    def reset(self) -> None:
        """Nothing has failed yet."""
        self._library.fail_reset()

    def arm(self, generation: int, nth: int, pick: int) -> None:
        """Fail the nth call, from here on, of this process (0) or of its child (1), grandchild (2)."""
        self._library.fail_arm(generation, nth, pick)

    def disarm(self) -> int:
        """Fail nothing any more; how many calls there were."""
        return int(self._library.fail_disarm())

    @property
    def text(self) -> str:
        """Which call failed, of whoever shares the page; empty if none did."""
        return bytes(self._library.fail_text()).decode(errors="replace")

    def variants(self) -> int:
        """In how many ways that call may fail; 0 if none did."""
        return int(self._library.fail_variants())

    def lost(self) -> list[Path]:
        """Files whose bytes must be taken for lost: their sync failed, and no new write and sync came after it."""
        out = ctypes.create_string_buffer(_LOST_BYTES)
        self._library.fail_lost(out, _LOST_BYTES)
        return [Path(line) for line in out.value.decode().splitlines()]

    def held(self) -> tuple[int, int]:
        """Blocks of malloc and bytes of mmap that the C core and LMDB hold in this process."""
        out = (ctypes.c_longlong * 2)()
        self._library.fail_held(out)
        return int(out[0]), int(out[1])
