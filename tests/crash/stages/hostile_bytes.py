"""Stage: bytes that somebody else chose, wherever the C core reads bytes.

    tests/fuzz/TARGET.c    node decoder, trees of hostile nodes, records and log blocks, packs, locator, segment
         |
         +-- gcc, ASan + UBSan: every input of the corpus, every seed, every input that ever broke something
         +-- clang, libFuzzer, ASan + UBSan: so many new inputs a target, from this run's seed

What is proven: of all these inputs none makes the core read or write outside of what it was given, run into undefined
behaviour, fail an assertion, leak, or go on without end; and the promises that the targets state hold (a node has one
encoding, a scan ascends, what apply makes can be read, packs and log blocks that come out are whole). What is not:
that there is no such input. Lies that Python reads (codec, rows, records, helios.json, pickles) are the matter of
tests/unit/test_hostile_bytes.py.

The seeded bugs each take one check of a bound away.
"""

from __future__ import annotations

from pathlib import Path

from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant, program
from tests.fuzz import run as fuzzing

TITLE = "hostile bytes"
SECONDS = 30.0

# New inputs of each target at scale 1: one or two seconds' worth.
_RUNS = {"node": 40_000, "record": 40_000, "pack": 10_000, "locator": 1_500, "tree": 500, "segment": 500}
_FLAGS = {"segment": ("-Wl,--wrap=mmap,--wrap=munmap",)}

MUTANTS = (
    Mutant(
        name="a node's prefix may lie beyond its end",
        file="csrc/hs_node.c",
        old="    if (prefix_at + node->prefix_size > room) return false;\n",
        new="",
        why="the table of keys is read before anything says that the node is large enough for it",
    ),
    Mutant(
        name="a pack's payloads may lie anywhere",
        file="csrc/hs_pack.c",
        old="if (row.offset != offset || row.stored_size > size - offset) return false;",
        new="if (row.stored_size > size - offset) return false;",
        why="a row's offset is used to read its payload",
    ),
    Mutant(
        name="a segment's file may be shorter than it says",
        file="csrc/hs_segment.c",
        old="header->segment_size != p.size || file_size != p.size",
        new="header->segment_size != p.size || file_size == 0",
        why="pages of a mapping behind the end of its file are a signal",
    ),
    Mutant(
        name="an entry may be of any size",
        file="csrc/hs_ring.c",
        old="""    if (stored_size > HS_ENTRY_PAYLOAD_MAX || kind < HS_ENTRY_NODE || kind > HS_ENTRY_BLOB ||
        codec > HS_CODEC_LZ4)
        return false;
    if (kind == HS_ENTRY_BLOB) return stored_size == 0;
    return codec != HS_CODEC_RAW || stored_size == raw_size;
}

bool hs_ring_header_fits(const hs_entry *header, uint32_t units_left) {
    return sizes_agree(header->kind, header->codec, header->stored_size, header->raw_size) &&
           hs_ring_units(header->stored_size) <= units_left;
""",
        new="""    if (kind < HS_ENTRY_NODE || kind > HS_ENTRY_BLOB || codec > HS_CODEC_LZ4) return false;
    if (kind == HS_ENTRY_BLOB) return stored_size == 0;
    return codec != HS_CODEC_RAW || stored_size == raw_size;
}

bool hs_ring_header_fits(const hs_entry *header, uint32_t units_left) {
    return sizes_agree(header->kind, header->codec, header->stored_size, header->raw_size) && units_left > 0;
""",
        why="a payload that ends behind the segment's end is read from whatever is mapped there",
    ),
    Mutant(
        name="a child may have no entries",
        file="csrc/hs_tree_walk.c",
        old="if (child->level + 1 != parent->level || child->count == 0) return false;",
        new="if (child->level + 1 != parent->level) return false;",
        why="its last key is the one before the first",
    ),
    Mutant(
        name="a commit may follow the last serial",
        file="csrc/hs_commit.c",
        old="if (!has_successor(known)) return HS_CORRUPT;",
        new="(void)has_successor(known);",
        why="the record after it would have serial 0, which no branch's record has",
    ),
)
_TARGETS_OF = {
    "csrc/hs_node.c": "node",
    "csrc/hs_pack.c": "pack",
    "csrc/hs_segment.c": "segment",
    "csrc/hs_ring.c": "segment",
    "csrc/hs_tree_walk.c": "tree",
    "csrc/hs_commit.c": "segment",
}


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    seeded = next((mutant for mutant in MUTANTS if mutant.name == run.mutant), None)
    targets = fuzzing.TARGETS if seeded is None else (_TARGETS_OF[seeded.file],)
    for target in targets:
        _replay(run, target, outcome)
    if seeded is not None and outcome.violations:
        return outcome
    programs = fuzzing.build(fuzzing.clang(), run.tree, targets)
    for target in targets:
        _fuzz(run, target, programs[target], outcome)
    outcome.figures["reports"] = len(outcome.violations)
    if seeded is None:
        outcome.reached(
            "inputs replayed", sum(len(list((fuzzing.CORPUS / name).iterdir())) for name in targets)
        )
        outcome.reached("inputs fuzzed", run.scale * sum(_RUNS.values()))
    return outcome


def _replay(run: Run, target: str, outcome: Outcome) -> None:
    source = run.tree / "tests" / "fuzz" / f"{target}.c"
    replayer = program(run.tree, source, "asan", "-DHS_FUZZ_REPLAY", *_FLAGS.get(target, ()))
    files = fuzzing.inputs(target, run.directory)
    report = fuzzing.replay(replayer, target, files, run.directory)
    outcome.count("inputs replayed", report.inputs)
    outcome.expect(not report.found, f"{target}: {report.found}, on {report.culprit}")


def _fuzz(run: Run, target: str, fuzzer: Path, outcome: Outcome) -> None:
    chosen = run.chance(target).randrange(1 << 30)
    report = fuzzing.fuzz(fuzzer, target, run.directory, seed=chosen, runs=run.times(_RUNS[target]))
    outcome.count("inputs fuzzed", report.inputs)
    outcome.count("edges reached", report.reached)
    outcome.expect(
        not report.found,
        f"{target}: {report.found}, in {report.inputs} inputs from libFuzzer's seed {chosen}; "
        f"the input is {report.culprit}",
    )
