"""`python -m bench --quick` completes and prints every line with its baseline; speed is not judged."""

import json
import re
import subprocess
import sys
from pathlib import Path

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
    done = bench("--quick", "--out", str(tmp_path / "out"), "--disk", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    for operation, beside in LINES.items():
        matching = [row for row in rows if re.fullmatch(operation, row["operation"])]
        assert matching, f"no line for {operation}"
        for row in matching:
            names = [each["name"] for each in row["peers"] + [row["floor"]] if each]
            assert any(re.fullmatch(beside, name) for name in names), row
            assert row["n"] > 0
            assert f"{row['operation']}  (n = " in done.stdout
    missed = [each for row in rows for each in row["targets"] if each["verdict"] == "missed"]
    assert len(missed) == done.stdout.count("    missed: ")


def test_stores_and_baselines_are_removed_afterwards(tmp_path: Path) -> None:
    stores = tmp_path / "stores"
    stores.mkdir()
    done = bench("--quick", "--only", "commit_48", "--disk", str(stores), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(stores.iterdir()) == []


def test_an_unknown_name_is_refused() -> None:
    done = bench("--only", "no-such-benchmark")
    assert done.returncode == 2
    assert "--list" in done.stderr
