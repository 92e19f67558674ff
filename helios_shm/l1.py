"""L1 by itself: values by id in the shared ring, for measurements and tests. Snapshots use the same functions of
the core."""

from __future__ import annotations

from . import config
from ._capi import check, hot, lib
from .attachment import Attachment, Deadline

_ID_BYTES = 32


class L1(hot.L1Base):
    """The ring as a content-addressed cache of values."""

    __slots__ = ("__weakref__",)

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def _put(self, value: bytes) -> bytes:
        """``put`` of a value of any size, waiting for room, if need be, for as long as a commit would."""
        attachment = self._attachment
        call = attachment.call()
        try:
            status = lib.hs_l1_put(call.c, value, len(value))
            deadline = Deadline(config.COMMIT_DEADLINE)
            while status == lib.HS_WAIT:
                attachment.wait_for_room(deadline, "L1 put")
                status = lib.hs_l1_put(call.c, value, len(value))
            attachment.waited_for_room(deadline)
            check(status, "L1 put")
            made: bytes = call.id[:]
            return made
        finally:
            attachment.pool.append(call)

    def _get(self, id: bytes) -> bytes | None:
        """``get`` of any id and any value."""
        if len(id) != _ID_BYTES:
            raise ValueError(f"an id has {_ID_BYTES} bytes, not {len(id)}")
        return self._attachment.from_l1(id)
