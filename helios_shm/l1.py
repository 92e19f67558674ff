"""L1 by itself: values by id in the shared ring, for measurements and tests. Snapshots use the same functions of
the core."""

from __future__ import annotations

from . import config
from ._capi import check, lib
from .attachment import Attachment, Deadline

_ID_BYTES = 32


class L1:
    """The ring as a content-addressed cache of values."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def put(self, value: bytes) -> bytes:
        """Append a value of at most half a MiB; returns its id. A value that is there already is not appended again.

        Raises ValueError for a larger one, CapacityError when the ring stays full.
        """
        attachment = self._attachment
        call = attachment.call()
        try:
            status = lib.hs_l1_put(call.c, value, len(value))
            if status != lib.HS_OK:
                deadline = Deadline(config.COMMIT_DEADLINE)
                while status == lib.HS_WAIT:
                    attachment.wait_for_room(deadline, "L1 put")
                    status = lib.hs_l1_put(call.c, value, len(value))
                check(status, "L1 put")
            return bytes(call.id)
        finally:
            attachment.pool.append(call)

    def get(self, id: bytes) -> bytes | None:
        """The value of an id (32 bytes), or None if L1 does not have it."""
        if len(id) != _ID_BYTES:
            raise ValueError(f"an id has {_ID_BYTES} bytes, not {len(id)}")
        attachment = self._attachment
        call = attachment.call()
        n = lib.hs_l1_get(call.c, id)
        if 0 <= n < lib.HS_ENCODED:
            value = call.data[:n]
            attachment.pool.append(call)
            return bytes(value)
        attachment.pool.append(call)
        return attachment.from_l1(id)
