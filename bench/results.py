"""What a run found, and the two files that keep it: results.json for programs, results.md for people.

    {"about": {machine, commit, ...}, "seconds": {benchmark: s}, "broken": [...],
     "rows": [{"benchmark", "operation", "n", "unit", "ours": {p50, p95, p99, mean},
               "peers": [{"name", "ratio", "unit", p50, ...}], "floor": like a peer or null,
               "targets": [{"relation", "limit", "against", "judged", "figure", "verdict"}],
               "skipped": [{"name", "reason", "installed"}], "verdict", "note", "at": {plot, panel, axis, x} or null}]}

Used by __main__.py and plots.py.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .harness import HEADINGS, Beside, Row, cells, missed_text


@dataclass(slots=True)
class Report:
    """Everything that one run found."""

    about: dict[str, str]
    rows: list[tuple[str, Row]] = field(default_factory=list)  # (benchmark, row)
    seconds: dict[str, float] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def beside(other: Beside) -> dict[str, Any]:
    """A peer or the floor as plain values."""
    return {"name": other.name, "ratio": other.ratio, **dataclasses.asdict(other.spread)}


def record(benchmark: str, row: Row) -> dict[str, Any]:
    """A row as plain values."""
    return {
        "benchmark": benchmark,
        "operation": row.operation,
        "n": row.n,
        "ours": dataclasses.asdict(row.ours),
        "peers": [beside(peer) for peer in row.peers],
        "floor": beside(row.floor) if row.floor else None,
        "targets": [
            {
                **dataclasses.asdict(each.target),
                "judged": each.against,
                "figure": each.figure,
                "verdict": each.verdict,
            }
            for each in row.judgements
        ],
        "skipped": [dataclasses.asdict(each) for each in row.skipped],
        "verdict": row.verdict,
        "note": row.note,
        "at": dataclasses.asdict(row.at) if row.at else None,
    }


def as_json(found: Report) -> str:
    """The whole run."""
    rows = [record(benchmark, row) for benchmark, row in found.rows]
    whole = {"about": found.about, "seconds": found.seconds, "broken": found.broken, "rows": rows}
    return json.dumps(whole, indent=1) + "\n"


def table(row: Row) -> list[str]:
    """A row as a Markdown table under its name."""
    lines = [f"### {row.operation}", "", f"n = {row.n:,}", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|---|--:|--:|--:|--:|--:|---|"]
    lines += [
        "| " + " | ".join(text.strip().replace("|", "\\|") for text in each) + " |" for each in cells(row)
    ]
    lines.append("")
    lines += [
        f"- **missed**: {missed_text(row, each)}" for each in row.judgements if each.verdict == "missed"
    ]
    lines += [f"- skipped: {each.name} ({each.reason})" for each in row.skipped]
    return [*lines, *([f"- {row.note}"] if row.note else []), ""]


def as_markdown(found: Report) -> str:
    """The table of the whole run, the missed targets first."""
    lines = ["# Measured", "", *(f"- {name}: {value}" for name, value in found.about.items())]
    lines.append(f"- seconds: {sum(found.seconds.values()):.0f} in all")
    lines += [f"- **not measured**: {name} broke" for name in found.broken]
    missed = [
        f"- {row.operation}: {missed_text(row, each)}"
        for _, row in found.rows
        for each in row.judgements
        if each.verdict == "missed"
    ]
    lines += ["", "## Missed", "", *(missed or ["none"]), ""]
    for benchmark, taken in found.seconds.items():
        lines += [f"## {benchmark} ({taken:.1f} s)", ""]
        for name, row in found.rows:
            lines += table(row) if name == benchmark else []
    return "\n".join(lines)


def write(found: Report, directory: Path) -> list[Path]:
    """Writes both files; returns their paths."""
    paths = [directory / "results.json", directory / "results.md"]
    for path, text in zip(paths, (as_json(found), as_markdown(found)), strict=True):
        path.write_text(text)
    return paths
