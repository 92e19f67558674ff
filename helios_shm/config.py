"""Sizes, limits and deadlines, each with its reason; bench/README.md has the measurements behind those that were
measured."""

from __future__ import annotations

from typing import Final

KEY_BYTES_MAX: Final = 1024
VALUE_BYTES_MAX: Final = 1 << 32
MESSAGE_BYTES_MAX: Final = 32768
METADATA_BYTES_MAX: Final = 32768
BRANCH_NAME_BYTES_MAX: Final = 255

# A ring this large holds about half a million nodes: the working set of a large search.
L1_BYTES_DEFAULT: Final = 256 << 20
L1_BYTES_MIN: Final = 4 << 20
# Places of entries have 16 bits for the chunk (csrc/hs_layout.h, HS_CHUNKS_MAX).
L1_BYTES_MAX: Final = 65535 << 20
# Without a wish for a size, never take more than this share of what /dev/shm has left (Docker gives 64 MiB in all).
L1_SHARE_OF_FREE_SHM: Final = 0.5

# Private copies of nodes, a process: an upper bound, reached only by states that large. The tree of a million keys has
# 120 MB; with less than that, each commit reads nodes back from the ring or from disk.
CACHE_BYTES: Final = 256 << 20

# Values from here on are files, read by mmap.
BLOB_BYTES_MIN: Final = 256 << 10
# Values from here on are tried with LZ4; below it, compressing costs more than a commit. 0: none are.
LZ4_BYTES_MIN: Final = 4096

# Values of up to this size are remembered by the snapshot that read them, at most so many.
READ_VALUE_BYTES_MAX: Final = 2048
READ_VALUES_MAX: Final = 16384

# Edits of a state that is made from a stream (git, bundles), waiting for the next part of it to be committed.
EDITED_BYTES: Final = 64 << 20

# Seconds.
COMMIT_DEADLINE: Final = 30.0
DURABLE_DEADLINE: Final = 30.0
OPEN_DEADLINE: Final = 10.0
# An operation that others have passed so often, for so long, takes the turn at its branch (csrc/hs_turn.h, which allows
# no more than 50 ms), for some times as long as one of its attempts has taken; it waits so long for others' turns.
PASSED_MAX: Final = 3
PASSED_SECONDS_MAX: Final = 0.002
TURN_ATTEMPTS: Final = 4
TURN_US_MIN: Final = 2000
TURN_US_MAX: Final = 50000
TURN_DEADLINE: Final = 2.0
# Every blocking call looks up this often: Ctrl-C gets through, a dead coordinator is noticed.
WAIT_SLICE_MS: Final = 50
