"""`python -m bench --quick` completes and prints every line with its baseline; speed is not judged."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# operation -> baseline, as patterns; one for each row of the table, in the order of the report.
LINES = {
    r"commit 1 key of 100 x 1024 B, on a branch": r"py-lmdb begin\+put\+commit, no sync, tmpfs",
    r"commit 1 key of 100 x 48 B, on a branch": r"py-lmdb begin\+put\+commit, no sync, tmpfs",
    r"commit 1 key of [\d,]{4,} x 1024 B, on a branch": r"the same, 100 keys|py-lmdb begin\+put\+commit.*",
    r"commit 1 key of [\d,]{4,} x 48 B, on a branch": r"the same, 100 keys|py-lmdb begin\+put\+commit.*",
    r"snapshot\.fork\(\), [\d,]+ keys": r"py-lmdb get, view, open transaction",
    r"workspace\[path\] = value": r"dict",
    r"snapshot\[path\], first read, .*another process": r"py-lmdb get, view, the same process",
    r"snapshot\[path\], repeated, .*another process": r"py-lmdb get, view, the same process",
    r"L1 put, 1 KiB": r"BLAKE3 wheel, one call.*",
    r"L1 hit, 1 KiB": r"py-lmdb get, view, open transaction",
    r"L2 group commit of 1,000 new nodes .*": r"py-lmdb, the same bytes as one value.*",
    r"sustained .*, all persisted": r"burst, the same run",
    r"durable commits, 8 processes against 1": r"1 process, the same run",
    r"two processes on two branches against one": r"memcpy .*",
    r"commit seen in branch\.wait": r"the same 1 KiB over multiprocessing\.Pipe",
    r"[\d,]+ forks of .*, one changed key each, committed": r"[\d,]+ x dict\.copy.*",
    r"first open of a new store": r"Python's start \+ import.*",
    r"first open whose segment stands": r"Python's start \+ import.*",
    r"commit .* blocks hashed, C": r"BLAKE3 alone for those blocks.*",
    r"commit .* blocks hashed, Python": r"BLAKE3 alone for those blocks.*",
}


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)


def test_quick_run_prints_every_line_beside_its_baseline(tmp_path: Path) -> None:
    done = bench("--quick", "--json", str(tmp_path / "rows.json"), "--disk", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    for operation, baseline in LINES.items():
        matching = [row for row in rows if re.fullmatch(operation, row["operation"])]
        assert matching, f"no line for {operation}"
        for row in matching:
            assert re.fullmatch(baseline, row["baseline"]), row
            assert row["n"] > 0
            assert f"{row['operation']} " in done.stdout
    assert [row["verdict"] for row in rows].count("missed") == done.stdout.count("    missed: ")


def test_stores_and_baselines_are_removed_afterwards(tmp_path: Path) -> None:
    done = bench("--quick", "--only", "commit_48_bytes", "--disk", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_is_refused() -> None:
    done = bench("--only", "no-such-benchmark")
    assert done.returncode == 2
    assert "--list" in done.stderr


@pytest.mark.parametrize(
    ("relation", "limit", "figure", "met"),
    [("<=", 0.7, 0.7, True), ("<=", 0.7, 0.71, False), (">=", 4.0, 4.0, True), (">=", 4.0, 3.9, False)],
)
def test_a_target_is_judged_on_its_side(relation: str, limit: float, figure: float, met: bool) -> None:
    code = f"from bench.harness import Target; print(Target({relation!r}, {limit}).met({figure}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(met)
