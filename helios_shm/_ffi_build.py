"""Build recipe of the compiled module: csrc/helios_shm.h is its cdef, csrc/hs_*.c its sources.

    csrc/helios_shm.h --(lines with '#' dropped)--> cdef --+
    csrc/hs_*.c ------------------------------------------+--> helios_shm/_native.*.so
    csrc/python/*.c (module helios_shm._hot) -------------+

Run by setuptools alone (setup.py names the ``ffi`` below), from a source tree or an unpacked sdist.
"""

from pathlib import Path

from cffi import FFI

# setuptools wants sources relative to setup.py's directory, where it also runs this file.
_ROOT = Path(__file__).resolve().parent.parent
_CSRC = _ROOT / "csrc"
_HEADER = _CSRC / "helios_shm.h"

_COMPILE_ARGS = [
    "-O2",
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Werror",
    "-fvisibility=hidden",
    "-pthread",
    # Python's own flags switch assertions off; ours are about programmer errors, and stay on as in the C tests.
    "-UNDEBUG",
]

# The code that cffi generates around the header is not ours to keep free of warnings.
_PREAMBLE = """
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "helios_shm.h"
"""


def _cdef() -> str:
    """The public header without its guard and its includes, the only lines of it that begin with '#'."""
    lines = _HEADER.read_text(encoding="ascii").splitlines()
    return "\n".join(line for line in lines if not line.startswith("#"))


def _relative(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(_ROOT)) for path in _CSRC.glob(pattern))


def _ffi() -> FFI:
    builder = FFI()
    builder.cdef(_cdef())
    builder.set_source(
        "helios_shm._native",
        _PREAMBLE,
        sources=[*_relative("hs_*.c"), *_relative("python/*.c")],
        depends=[*_relative("*.h"), *_relative("python/*.h")],
        include_dirs=["csrc"],
        extra_compile_args=_COMPILE_ARGS,
        extra_link_args=["-pthread"],
        libraries=["rt", "m"],
        # csrc/python uses more of CPython than the stable ABI has.
        py_limited_api=False,
    )
    return builder


ffi = _ffi()
