"""Turns at a branch, for operations that take more than one call of the core: csrc/hs_turn.h.

    lost, lost, lost, and 2 ms gone  ->  take the turn (wait for it as long as it is others')  ->  commit gives it back

While it is one operation's turn, the commits of all others wait before they move the head. So an update whose function
takes long, or a merge, comes through however fast the head is moved by others; and nobody waits for a turn longer than
50 ms, whatever became of the process that has it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from . import config
from ._capi import check, ffi, lib
from .attachment import Deadline

if TYPE_CHECKING:
    from .branch import Branch
    from .workspace import Said


class Turn:
    """How often an operation on a branch was passed by others since it began, and its turn if that is too often."""

    __slots__ = ("_began", "_branch", "_passed", "_ticket")

    def __init__(self, branch: Branch) -> None:
        self._branch = branch
        self._began = time.monotonic()
        self._passed = 0
        self._ticket = ffi.new("uint32_t *")

    def passed(self, said: Said) -> None:
        """The head was moved by somebody else; see to it that this ends. What ``said`` is said of goes ahead then."""
        self._passed += 1
        gone = time.monotonic() - self._began
        if self._passed < config.PASSED_MAX or gone < config.PASSED_SECONDS_MAX:
            return
        hold_us = int(1e6 * config.TURN_ATTEMPTS * gone / self._passed)
        if self._take(min(max(hold_us, config.TURN_US_MIN), config.TURN_US_MAX)):
            said.ticket = self._ticket[0]

    def _take(self, hold_us: int) -> bool:
        """Wait for the turn; False if it stays others' for too long: go on without it."""
        attachment, ref = self._branch._attachment, self._branch._ref
        deadline = Deadline(config.TURN_DEADLINE)
        call = attachment.call()
        try:
            while lib.hs_branch_turn_take(call.c, ref, self._ticket, hold_us) == lib.HS_YIELD:
                if deadline.passed():
                    return False
                check(
                    lib.hs_branch_yield(call.c, ref, self._ticket[0], deadline.slice_ms()),
                    f"branch {self._branch.name!r}",
                )
            return True
        finally:
            attachment.pool.append(call)

    def give(self) -> None:
        """Give it back, if there is one and no commit has done so."""
        if self._ticket[0]:
            call = self._branch._attachment.call()
            try:
                lib.hs_branch_turn_give(call.c, self._branch._ref, self._ticket[0])
            finally:
                self._branch._attachment.pool.append(call)
