"""The only importer of the compiled library: ``ffi`` and ``lib`` (cffi), ``hot`` (a CPython extension), and status
codes turned into typed errors.

Both modules are in one shared library, so that they share one core; the import system, which goes by file names,
finds the first by itself and is told of the second here.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from . import _native
from ._native import ffi, lib
from .errors import (
    BusyError,
    CapacityError,
    ClosedError,
    CorruptError,
    ExistsError,
    FormatError,
    HeliosError,
    NotFoundError,
    StoreError,
)

if TYPE_CHECKING:
    from . import _hot as hot

__all__ = ["check", "error", "ffi", "hot", "lib"]


def _load_hot() -> ModuleType:
    name = f"{__package__}._hot"
    spec = importlib.util.spec_from_file_location(name, _native.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


if not TYPE_CHECKING:
    hot = _load_hot()

_ERRORS: dict[int, type[HeliosError]] = {
    lib.HS_NOT_FOUND: NotFoundError,
    lib.HS_WAIT: BusyError,
    lib.HS_TIMED_OUT: BusyError,
    lib.HS_EXISTS: ExistsError,
    lib.HS_CORRUPT: CorruptError,
    lib.HS_FORMAT: FormatError,
    lib.HS_FULL: CapacityError,
    lib.HS_NO_SPACE: CapacityError,
    lib.HS_CLOSING: ClosedError,
}


def error(status: int, what: str) -> Exception:
    """The exception that a status below zero stands for; ``what`` says what was being done to what."""
    reason = ffi.string(lib.hs_strerror(status)).decode()
    if status == lib.HS_NO_MEMORY:
        return MemoryError(f"{what}: {reason}")
    if status == lib.HS_ARGUMENT:
        return ValueError(f"{what}: {reason}")
    if status == lib.HS_SYSTEM:
        number = lib.hs_errno()
        return StoreError(f"{what}: {os.strerror(number)} (errno {number})")
    return _ERRORS.get(status, StoreError)(f"{what}: {reason}")


def check(status: int, what: str) -> int:
    """Return a status of 0 or above; raise the typed error for one below."""
    if status < 0:
        raise error(status, what)
    return status
