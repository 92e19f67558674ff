"""L1 by itself: values by id in the shared ring, for measurements and tests. Snapshots use the same functions of
the core."""

from __future__ import annotations

from . import config
from ._capi import check, lib
from .attachment import Attachment, Call, Deadline

_ID_BYTES = 32
_put, _get = lib.hs_l1_put, lib.hs_l1_get
_ENCODED = lib.HS_ENCODED


class L1:
    """The ring as a content-addressed cache of values."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def put(self, value: bytes) -> bytes:
        """Append a value of at most half a MiB; returns its id. A value that is there already is not appended again.

        Raises ValueError for a larger one, CapacityError when the ring stays full.
        """
        attachment = self._attachment
        try:
            call = attachment.pool.pop()
        except IndexError:
            call = attachment.acquire()
        try:
            status = _put(call.c, value, len(value))
            if status:
                self._put_slowly(call, status, value)
            made: bytes = call.id[:]
            return made
        finally:
            attachment.pool.append(call)

    def _put_slowly(self, call: Call, status: int, value: bytes) -> None:
        """Wait for room, for as long as a commit would."""
        deadline = Deadline(config.COMMIT_DEADLINE)
        while status == lib.HS_WAIT:
            self._attachment.wait_for_room(deadline, "L1 put")
            status = _put(call.c, value, len(value))
        check(status, "L1 put")

    def get(self, id: bytes) -> bytes | None:
        """The value of an id (32 bytes), or None if L1 does not have it."""
        if len(id) != _ID_BYTES:
            raise ValueError(f"an id has {_ID_BYTES} bytes, not {len(id)}")
        attachment = self._attachment
        try:
            call = attachment.pool.pop()
        except IndexError:
            call = attachment.acquire()
        try:
            n = _get(call.c, id)
            if 0 <= n < _ENCODED:
                value: bytes = call.data[:n]
                return value
        finally:
            attachment.pool.append(call)
        return attachment.from_l1(id)
