"""Engine.gc, on the side of the one who asks: what is to be kept, a request to the coordinator, and its answer.

    locks/collect   flock: one asks at a time; the others wait for their turn
    gc.request      renamed into place; the coordinator touches it while it works, and removes it when it has answered
    gc.result       the answer, told by the request's id

Who asks may die: the coordinator goes on. A coordinator may die: the next one finds the request, and begins anew.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta

from . import config, lifecycle
from ._capi import lib
from .attachment import Attachment, Deadline
from .blobs import replace_file
from .errors import BusyError, CorruptError, ReadOnlyError, StoreError
from .retention import Answer, Keep, Request, answer_decode, grace_of, rules_of
from .types import GCReport

_PAUSE_MIN = 0.001


def collect(
    attachment: Attachment,
    history: Keep | Mapping[str, Keep] | None,
    grace: timedelta,
    dry_run: bool,
) -> GCReport:
    """See Engine.gc."""
    rules, grace_ns = rules_of(history), grace_of(grace)
    if not isinstance(dry_run, bool):
        raise TypeError(f"dry_run is true or false, not {type(dry_run).__name__}")
    if attachment.readonly or attachment.private:
        raise ReadOnlyError(f"{attachment.paths.root} is open read-only; a collection changes it")
    asked = time.time_ns()
    attachment.pool.append(attachment.call())  # raises ClosedError; attaches, after a fork
    with lifecycle.turn(attachment.paths):
        began = time.monotonic_ns()
        attachment.wait_to_the_end("gc")  # what was committed before is judged like what is on disk
        request = Request(secrets.token_hex(16), rules, grace_ns, dry_run, asked)
        answer = _ask(attachment, request)
        if not dry_run:
            attachment.measure(lib.HS_MEASURE_COLLECTION, time.monotonic_ns() - began)
    if answer.tally is None:
        kinds = {"BusyError": BusyError, "CorruptError": CorruptError}
        raise kinds.get(answer.kind, StoreError)(f"gc: {answer.error}")
    return answer.tally.report(dry_run=dry_run)


def _ask(attachment: Attachment, request: Request) -> Answer:
    paths = attachment.paths
    try:
        replace_file(paths.gc_request, request.encode())
        attachment.wake_coordinator()
        return next(answer for answer in _answers(attachment, request) if answer.id == request.id)
    finally:
        for path in (paths.gc_request, paths.gc_result):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _answers(attachment: Attachment, request: Request) -> Iterator[Answer]:
    """Whatever is answered, as long as the coordinator goes on."""
    pause, patience, seen = _PAUSE_MIN, Deadline(config.DURABLE_DEADLINE), -1
    while True:
        with contextlib.suppress(FileNotFoundError):
            yield answer_decode(attachment.paths.gc_result.read_bytes())
        touched = _touched(attachment)
        if touched != seen:
            patience, seen = Deadline(config.DURABLE_DEADLINE), touched
        if patience.passed():
            reason = lifecycle.coordinator_error(attachment.paths)
            raise BusyError(
                f"gc: the coordinator has not worked on it for {config.DURABLE_DEADLINE:.0f} s; "
                + (f"it reports: {reason}" if reason else f"see {attachment.paths.log}")
            )
        lifecycle.ensure_coordinator(attachment.paths)
        time.sleep(pause)
        pause = min(2 * pause, config.WAIT_SLICE_MS / 1000)


def _touched(attachment: Attachment) -> int:
    """When the coordinator last worked on the request; 0: it has taken it away."""
    try:
        return os.stat(attachment.paths.gc_request).st_mtime_ns
    except FileNotFoundError:
        return 0
