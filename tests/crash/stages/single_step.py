"""A writer dies at every instruction, and a reader is stepped through its look.

The work is done by tests/crash/single_step.c, which says how; this module builds it against the tree under test, runs
it, and knows the seeded bugs. "instructions" were stepped; "states" are those that differed from the one before in at
least one byte of the segment: each of them was read, recovered and written on.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, program
from tests.programs import untraced

TITLE = "single step"
SECONDS = 44.0

_SOURCE = Path(__file__).resolve().parent.parent / "single_step.c"
# For a run of scale 1, on a machine that others keep busy.
_SECONDS_MAX = 240

MUTANTS = (
    Mutant(
        "cursor before payload",
        "csrc/hs_ring.c",
        "    *place = entry_write(ring, item, units);\n    if (item->id == NULL) return HS_OK;\n",
        "    ring->writer.end += units;\n"
        "    (void)hs_chunk_publish(ring->segment, ring->self, &ring->writer);\n"
        "    ring->writer.end -= units;\n"
        "    *place = entry_write(ring, item, units);\n"
        "    if (item->id == NULL) return HS_OK;\n",
        "what is below a cursor must be whole",
    ),
    Mutant(
        "index before cursor",
        "csrc/hs_ring.c",
        "    pending_add(ring, key, item->id, *place);\n    return HS_OK;\n",
        "    pending_add(ring, key, item->id, *place);\n"
        "    (void)hs_index_insert(ring->segment, key, item->id, *place);\n"
        "    return HS_OK;\n",
        "what the index leads to must be published",
    ),
    Mutant(
        "head before record",
        "csrc/hs_commit.c",
        "    if (status == HS_OK) status = hs_ring_flush(&engine->ring); /* E1, E2 */\n"
        "    if (status != HS_OK) return status;\n"
        "    if (!hs_branch_head_compare_and_set(&engine->segment, state->branch->slot, &expected, place))\n"
        "        return HS_MOVED; /* E3: linearisation */\n",
        "    if (status != HS_OK) return status;\n"
        "    if (!hs_branch_head_compare_and_set(&engine->segment, state->branch->slot, &expected, place))\n"
        "        return HS_MOVED;\n"
        "    (void)hs_ring_flush(&engine->ring);\n",
        "a head must name a record that is published",
    ),
    Mutant(
        "no sum",
        "csrc/hs_ring.c",
        "        if (hs_ring_checksum(segment->seed, hs_place_generation(place), header, sum) != header->checksum)\n"
        "            return HS_CORRUPT;\n",
        "        (void)sum;\n",
        "a writer that was wrongly taken for dead writes over what another published",
    ),
    Mutant(
        "whatever stands there now",
        "csrc/hs_ring.c",
        "        if (hs_ring_checksum(segment->seed, hs_place_generation(place), header, sum) != header->checksum)\n"
        "            return HS_CORRUPT;\n"
        "    }\n"
        "    if (!still_current(segment, place)) return HS_NOT_FOUND;\n",
        "        uint64_t word = hs_load_relaxed(&segment->chunks[hs_place_chunk(place)].word);\n"
        "        uint32_t generation = hs_chunk_word_generation(word);\n"
        "        if (hs_ring_checksum(segment->seed, generation, header, sum) != header->checksum)\n"
        "            return HS_CORRUPT;\n"
        "    }\n",
        "a record is whole, and another's, when its chunk was used anew under the reader",
    ),
    Mutant(
        "publish by a store",
        "csrc/hs_chunk.c",
        "    if (!hs_cas_seq_cst(&segment->chunks[writer->chunk].word, &mine, next)) { /* E1 (release end) */\n",
        "    (void)mine;\n"
        "    hs_store_release(&segment->chunks[writer->chunk].word, next);\n"
        "    if (writer->generation == 0) {\n",
        "a writer that was wrongly taken for dead must find out",
    ),
    Mutant(
        "chunk of the dead is kept",
        "csrc/hs_drain.c",
        "    if (w.state == HS_CHUNK_BUSY && owner_gone(drain, w.owner)) {\n",
        "    if (w.state == HS_CHUNK_BUSY && w.owner > HS_PARTICIPANTS && owner_gone(drain, w.owner)) {\n",
        "what a dead process owned must come free",
    ),
    Mutant(
        "claim without a new generation",
        "csrc/hs_chunk.c",
        "        if (!own(segment, self, writer, chunk, word, w.generation + 1, 0)) continue;\n",
        "        if (!own(segment, self, writer, chunk, word, w.generation + (w.generation == 0), 0)) continue;\n",
        "an old place must not lead to what is new there",
    ),
)


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    built = program(run.tree, _SOURCE, "plain", "-Itests/c", "-Wl,-z,now")
    segment = f"helios-step-{os.getpid()}"
    command = [
        str(built),
        str(run.directory),
        segment,
        str(run.seed),
        str(run.scale),
        str(int(run.mutant is not None)),
    ]
    try:
        done = subprocess.run(
            command,
            env=untraced(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS_MAX * max(1.0, run.scale),
        )
    except subprocess.TimeoutExpired:
        outcome.violate(f"single_step hangs: {' '.join(command)}")
        return outcome
    finally:
        Path("/dev/shm", segment).unlink(missing_ok=True)
    _read(done.stdout, outcome)
    if done.returncode != 0:
        outcome.violate(f"single_step ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    if run.mutant is None:
        outcome.reached("instructions", 100_000)
        outcome.reached("states", 1000)
        outcome.reached("looks", 500)
        outcome.reached("suspicions", 50)
    return outcome


def _read(text: str, outcome: Outcome) -> None:
    """Figures and violations, a line each."""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "figure":
            name, _, number = rest.rpartition(" ")
            outcome.count(name, int(number))
        elif word == "violation":
            outcome.violate(rest)
