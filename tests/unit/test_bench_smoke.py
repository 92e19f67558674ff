"""Every benchmark runs at tiny size and prints each of its rows beside its peers and floor; speed is not judged."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
PUT = r"py-lmdb begin\+put\+commit, no sync, tmpfs"
GET = r"py-lmdb get, view, open transaction"
ALONE = r"BLAKE3 alone for those blocks \(wheel\)"
PUBLISHING = (
    r"UltraDict2.*",
    r"multiprocessing\.Manager.*",
    r"sqlite3.*",
    r"redis.*",
    r"diskcache.*",
    r"pygit2.*",
)
COPIES = (r"dict\.copy", "deepcopy", "pickle.*", "immutables.*", "pyrsistent.*")
FLOOR_OF_BYTES = r"BLAKE3 \(wheel\) and memcpy of all bytes"
PUTMULTI = (r"py-lmdb begin\+putmulti.*tmpfs", r"py-lmdb begin\+putmulti.*sorted")
CROWD = (r"py-lmdb.*", r"redis.*", r"sqlite3.*")
SYNCED = (r"py-lmdb, synced.*", r"redis.*", r"sqlite3, synced.*")
ALONE_HERE = "one process alone, the same run"

# benchmark -> operation -> who stands beside it, as patterns: in each row of that operation, present or skipped.
LINES: dict[str, dict[str, tuple[str, ...]]] = {
    "hot": {
        r"commits by \d+ writers on one branch, \w+": (ALONE_HERE,),
        r"slowest of \d+ writers on one branch, \w+": ("the median writer",),
    },
    "evaluator": {
        r"evaluations of 1 ms \+ 0\.05 ms a state, 2 workers with \d+ leaves each": ("one by one, the same evaluator",),
    },
    "search_strength": {r"score in connect four, .*": (r"OpenSpiel's MCTSBot \(C\+\+\).*",)},
    "search_speedup": {
        r"simulations on one tree by \d+ processes, rollouts of \d+ us": (ALONE_HERE, "the loops of the rollouts.*"),
    },
    "search_store": {
        r"fork \+ commit of an expansion, .*": (r"copy\.deepcopy of the environment",),
        r"share of a search that the store takes, .*": (),
    },
    "search_taxi": {
        r"a state of Taxi-v4 more, to change": ("deepcopy",),
        r"a step of Taxi-v4 from a state that stays": ("deepcopy, step",),
        r"memory of [\d,]+ states of Taxi-v4, a step apart": ("deep copies",),
    },
    "search_handover": {
        r"a state of [\d,]+ x \d+ B to another process, and a value read there": (
            "a Snapshot, pickled", "the state, pickled", "a byte there and back"
        ),
    },
    "search_clones": {
        r"a move of connect four from a state that stays": (r"pyspiel's State\.child",),
        r"a move of chess from a state that stays": (r"chess\.Board\.copy and push",),
        r"simulations of connect four by one process": (r"OpenSpiel's MCTSBot \(C\+\+\)",),
    },
    "materialize": {
        r"materialize [\d,]+ files x 500 B, new directory": ("git worktree add", r"shutil\.copytree", "openat.*"),
        r"materialize [\d,]+ files x 500 B, unchanged": ("git worktree add", "git status", "fstatat.*"),
        r"materialize [\d,]+ files x 500 B, \d+ changed": ("git checkout.*",),
    },
    "ingest": {
        r"ingest and commit [\d,]+ files x 500 B, seen for the first time": ("git add and commit.*",),
        r"ingest [\d,]+ files x 500 B, unchanged": ("git status", "fstatat.*"),
    },
    "commit_1_kib": {
        r"commit 1 key of 100 x 1 KiB, on a branch": (PUT, ALONE, *PUBLISHING, "icechunk.*", "ProllyTree.*"),
        r"commit 1 key of 100 x 1 KiB, detached": (PUT,),
    },
    "commit_48_bytes": {
        r"commit 1 key of 100 x 48 B, on a branch": (PUT, ALONE, *PUBLISHING, "icechunk.*", "ProllyTree.*"),
        r"commit 1 key of 100 x 48 B, detached": (PUT,),
    },
    "commit_10_000": {
        r"commit 1 key of [\d,]+ x 1 KiB, on a branch": (PUT, ALONE, *PUBLISHING),
        r"commit 1 key of [\d,]+ x 48 B, on a branch": (PUT, ALONE, *PUBLISHING),
    },
    "commit_10": {
        r"commit 10 keys of [\d,]+ x 1 KiB, on a branch": (*PUTMULTI, ALONE, *PUBLISHING),
        r"commit 10 keys of [\d,]+ x 48 B, on a branch": (*PUTMULTI, ALONE, *PUBLISHING),
    },
    "commit_1000": {
        r"commit 1,000 keys of [\d,]+ x 1 KiB, on a branch": (*PUTMULTI, ALONE, *PUBLISHING[:4]),
        r"commit 1,000 keys of [\d,]+ x 48 B, on a branch": (*PUTMULTI, ALONE, *PUBLISHING[:4]),
    },
    "beside_ray": {
        r"commit 1 key of 100 x 1 KiB, on a branch, beside Ray": ("ray.*",),
        r"snapshot\[path\], repeated, .*, beside Ray": ("ray.*",),
    },
    "million_1_kib": {
        r"commit 1 key of [\d,]{4,} x 1 KiB, on a branch": (PUT, "the same, 100 keys"),
        r"snapshot\.fork\(\), [\d,]{4,} keys": (GET,),
        r"fork and change 1 key of [\d,]+ x 1 KiB": (r"dict\.copy", "immutables.*", "an empty dict.*"),
        r"snapshot\[path\], repeated, [\d,]+ x .*, hot": (GET, r"dict\[path\]"),
        r"snapshot\.keys\(\), .*": ("py-lmdb cursor, keys only",),
        r"snapshot\.items\(prefix\), .*": ("py-lmdb set_range.*",),
    },
    "million_48_bytes": {
        r"commit 1 key of [\d,]{4,} x 48 B, on a branch": (PUT, "the same, 100 keys"),
        r"snapshot\.fork\(\), [\d,]{4,} keys": (GET,),
        r"fork and change 1 key of [\d,]+ x 48 B": (*COPIES[:4], "an empty dict.*"),
        r"snapshot\[path\], repeated, [\d,]+ x .*, hot": (GET, r"dict\[path\]"),
        r"snapshot\.keys\(\), .*": ("py-lmdb cursor, keys only",),
        r"snapshot\.items\(\), .*": ("py-lmdb cursor, copies",),
    },
    "fork": {r"snapshot\.fork\(\), 100 keys": (GET,)},
    "fork_and_change": {
        rf"fork and change 1 key of [\d,]+ x {size}": (*COPIES, r"py-lmdb begin\+put\+abort.*", "an empty dict.*")
        for size in ("48 B", "1 KiB", "64 KiB")
    },
    "workspace_set": {r"workspace\[path\] = value": ("dict",)},
    "read_100": {
        r"snapshot\[path\], first read, .*another process": (GET, *PUBLISHING),
        r"snapshot\[path\], repeated, .*another process": (GET, *PUBLISHING),
    },
    "read_10_000": {
        r"snapshot\[path\], first read, .*another process": (GET, *PUBLISHING),
        r"snapshot\[path\], repeated, .*another process": (GET, *PUBLISHING),
    },
    "read_hot": {
        r"snapshot\[path\], repeated, 100 x .*, hot": (
            GET, *PUBLISHING, *COPIES[3:], "icechunk.*", "ProllyTree.*", r"dict\[path\]"
        ),
        r"snapshot\[path\], repeated, (?!100 )[\d,]+ x .*, hot": (GET, *PUBLISHING, *COPIES[3:], r"dict\[path\]"),
    },
    "read_cold": {
        r"snapshot\[path\], first read, .*no segment": (GET, r"sqlite3.*", r"diskcache.*", r"pygit2.*"),
    },
    "walk": {
        r"snapshot\.keys\(\), .*": ("py-lmdb cursor, keys only", *PUBLISHING[:3], "dict.*"),
        r"snapshot\.items\(\), .*": ("py-lmdb cursor, copies", *PUBLISHING[:3], "dict.*"),
        r"snapshot\.items\(prefix\), .*": (r"py-lmdb set_range.*", r"sqlite3.*"),
    },
    "ring": {r"L1 put, 1 KiB": (r"BLAKE3 wheel, one call.*",), r"L1 hit, 1 KiB": (GET,)},
    "bulk_keys": {
        r"bulk load of [\d,]+ keys x 48 B": (
            "py-lmdb.*", "sqlite3.*", "redis.*", "immutables.*", "pyrsistent.*", FLOOR_OF_BYTES,
        ),
        r"bulk load of 300 keys x 48 B": ("diskcache.*", "pygit2.*", "icechunk.*"),
        r"bulk load of [\d,]+ keys x 1 KiB": ("py-lmdb.*", "sqlite3.*", "redis.*", FLOOR_OF_BYTES),
    },
    "bulk_tree": {
        r"bulk load of a source tree, 40 files, .*, durable": (
            r"git add \+ git commit", r"git add \+ git commit, every object synced", "pygit2.*", "py-lmdb.*",
            "sqlite3.*", "diskcache.*", FLOOR_OF_BYTES + ", one fsync",
        ),
    },
    "capacity": {r"bytes held by a byte of L1, .*": ("LZ4's fast mode.*",)},
    "compressing": {r"commit 1 key of 100 x [\d]+ KiB of .*": ("LZ4 off",)},
    "cache_reads": {r"L1 hit rate, Zipf .*, ring of \d+ MiB": ("exact LRU of the same bytes", "exact LRU whose .*")},
    "cache_search": {r"L1 hit rate, MCTS, recorded, ring of \d+ MiB": ("exact LRU of the same bytes",)},
    "drain": {r"L2 group commit of 1,000 new nodes .*": (r"py-lmdb, the same bytes as one value.*",)},
    "sustained": {r"sustained .*, all persisted": (r"sequential write \+ sync.*",)},
    "durable": {
        r"durable commits by 1 process, .*": (r"one fsync.*", *SYNCED),
        r"durable commits by \d+ processes, .*": (ALONE_HERE, r"one fsync.*", *SYNCED),
    },
    "at_once": {
        r"commits by 1 process on own branches, .*": (*CROWD, "multiprocessing.Manager.*", "UltraDict2.*"),
        r"commits by \d+ processes on own branches, .*": (ALONE_HERE, *CROWD, r"one process's rate x what memcpy.*"),
        r"commits by \d+ processes on one branch, disjoint keys, .*": (ALONE_HERE, *CROWD),
        r"read, change, commit by \d+ processes of one key .*": (ALONE_HERE, *CROWD),
        r"reads of the head by \d+ process(es)? beside a writer, .*": CROWD,
    },
    "wait": {r"commit seen in branch\.wait": (r"the same 1 KiB over multiprocessing\.Pipe",)},
    "memory": {
        r"[\d,]+ forks of .*, one changed key each, committed": (r"dict\.copy.*", "immutables.*", "pyrsistent.*"),
    },
    "opening": {
        r"first open of a new store": (r"Python's start \+ import.*",),
        r"first open whose segment stands": (r"Python's start \+ import.*",),
    },
    "open_cold": {
        r"open \+ first read of .*, the segment is made": (r"py-lmdb open \+ get.*",),
        r"open \+ first read of .*, the segment stands": (r"py-lmdb open \+ get.*",),
    },
    "hashing": {
        r"commit .* blocks hashed, C": (ALONE,),
        r"commit .* blocks hashed, Python": (ALONE,),
    },
    "diff": {
        r"diff of two states of [\d,]+ keys, [\d,]+ differ": (
            "dict, every key.*", "pygit2.*", "immutables.*", "pyrsistent.*", "ProllyTree.*", "memcpy of the nodes.*"
        ),
        r"diff of two states of .*, no node in this process": ("warm",),
    },
    "history": {
        r"a state [\d,]+ commits back, by (id|number), and a value of it, hot": ("pygit2.*", "memcpy of the value"),
        r"restore a state [\d,]+ commits back on a branch, and read a value": ("pygit2.*",),
        r"log of [\d,]+ commits.*": ("pygit2.*",),
        r"a state .* commits back, .*, first reads from L2": ("pygit2.*",),
        r"a state .*, beside icechunk": ("icechunk.*",),
        r"a state .*, beside ProllyTree": ("ProllyTree.*",),
    },
    "commit_bytes": {
        r"bytes on disk of a commit, 1 key of 100 x .*": ("py-lmdb.*", "SQLite.*", "pygit2.*", "its new nodes.*")
    },
    "million_commits": {r"bytes on disk of [\d,]+ commits, .*": ("their new nodes.*",)},
    "real_history": {r"bytes on disk of the last [\d,]+ commits of this source tree": ("git, .*", "new nodes.*")},
    "histories": {
        r"git import, a commit, .*": ("git clone", r"git fast-export \| git fast-import", "libgit2 reads.*"),
        r"git export, a commit, .*": (r"git fast-export \| git fast-import", "libgit2 writes.*"),
        r"git import again, nothing is new, .*": ("git fetch",),
    },
}  # fmt: skip


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)


def beside(row: dict[str, Any]) -> list[str]:
    """The names of everything that stands beside ours in a row."""
    return [each["name"] for each in (*row["peers"], row["floor"]) if each]


@pytest.mark.smoke
@pytest.mark.parametrize("name", [benchmark.__name__ for benchmark in BENCHMARKS])
def test_a_quick_run_prints_every_row_beside_its_peers(name: str, tmp_path: Path) -> None:
    stores, out = tmp_path / "stores", tmp_path / "out"
    for each in (stores, out):
        each.mkdir()
    done = bench("--quick", "--only", name, "--out", str(out), "--disk", str(stores))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(stores.iterdir()) == [], "the stores are removed afterwards"
    rows = json.loads((out / "results.json").read_text())["rows"]
    broken = [each for row in rows for each in row["skipped"] if each["installed"]]
    assert not broken, "whoever is installed takes part"
    for operation, expected in LINES[name].items():
        matching = [row for row in rows if re.fullmatch(operation, row["operation"])]
        assert matching, f"no row for {operation}"
        for row in matching:
            assert row["n"] > 0
            assert f"{row['operation']}  (n = {row['n']:,})" in done.stdout
            for pattern in expected:
                present = any(re.fullmatch(pattern, each) for each in beside(row))
                skipped = any(re.fullmatch(pattern, each["name"]) for each in row["skipped"])
                assert present or skipped, f"{pattern} is neither in {beside(row)} nor in {row['skipped']}"
    missed = [each for row in rows for each in row["targets"] if each["verdict"] == "missed"]
    assert len(missed) == done.stdout.count("    missed: ")


def test_an_unknown_name_is_refused() -> None:
    done = bench("--only", "no-such-benchmark")
    assert done.returncode == 2
    assert "--list" in done.stderr
