"""Fails where less of the code ran under the tests than promised.

    coverage_floor.py c PERCENT DIRECTORY...    lines of csrc, from gcov's counters beside the objects
    coverage_floor.py python PERCENT REPORT     lines and branches, each by itself, from coverage's JSON

Uses the standard library and gcov only, so that it runs before anything is installed.
"""

import gzip
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

Lines = dict[str, dict[int, int]]


def gcov_lines(directories: list[Path]) -> Lines:
    """How often each line of csrc ran, added up over all objects, by file and line."""
    lines: Lines = defaultdict(lambda: defaultdict(int))
    for notes in sorted(path for directory in directories for path in directory.rglob("*.gcno")):
        with TemporaryDirectory() as scratch:
            command = ["gcov", "--json-format", str(notes.resolve())]
            subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            for report in Path(scratch).glob("*.gcov.json.gz"):
                for source in json.loads(gzip.decompress(report.read_bytes()))["files"]:
                    if "csrc/hs_" in source["file"]:
                        name = "csrc/" + source["file"].rpartition("csrc/")[2]
                        for line in source["lines"]:
                            lines[name][line["line_number"]] += line["count"]
    return lines


def ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] as '1-3 7'."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 100.0


def check_c(floor: float, directories: list[Path]) -> bool:
    lines = gcov_lines(directories)
    ran = total = 0
    for name, counts in sorted(lines.items()):
        missed = [number for number, count in counts.items() if count == 0]
        ran, total = ran + len(counts) - len(missed), total + len(counts)
        share = percent(len(counts) - len(missed), len(counts))
        print(f"{name:32} {len(counts):5} lines {share:6.1f} %  {ranges(missed)}")
    print(f"C: {ran} of {total} lines ran, {percent(ran, total):.1f} % (at least {floor:g} %)")
    if not total:
        print("no counters were found: the coverage build did not run", file=sys.stderr)
    return total > 0 and percent(ran, total) >= floor


def check_python(floor: float, report: Path) -> bool:
    totals = json.loads(report.read_text())["totals"]
    lines = percent(totals["covered_lines"], totals["num_statements"])
    branches = percent(totals["covered_branches"], totals["num_branches"])
    print(f"Python: {lines:.1f} % of lines, {branches:.1f} % of branches ran (at least {floor:g} % of each)")
    return totals["num_statements"] > 0 and min(lines, branches) >= floor


def main(language: str, floor: str, *paths: str) -> int:
    if language == "c":
        good = check_c(float(floor), [Path(path) for path in paths])
    else:
        good = check_python(float(floor), Path(paths[0]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
