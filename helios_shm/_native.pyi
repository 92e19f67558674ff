"""The compiled module as _capi.py sees it. cffi's objects are dynamic: what csrc/helios_shm.h declares is what
``lib`` has."""

from typing import Any

ffi: Any
lib: Any
