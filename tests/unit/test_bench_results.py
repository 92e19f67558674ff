"""What a run leaves behind: results.json with everything, results.md with the table, a plot for each workload."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from bench.harness import FLOOR, Beside, Point, Row, Skipped, Spread, Target
from bench.plots import curves, draw
from bench.results import Report, write

ABOUT = {"machine": "a machine, 2 cores", "commit": "0123456789ab", "kind": "full"}


def row(keys: int, panel: str = "48 B values", plot: str = "commit and publish") -> Row:
    """Takes `keys` ns beside a peer that takes four times that, above a floor of half."""
    ours = Spread.of([keys * 1.0, keys * 1.0, keys * 3.0], "ns")
    return Row(
        operation=f"commit 1 key of {keys}",
        n=3,
        ours=ours,
        peers=(Beside.figures("py-lmdb put", ours, Spread.single(keys * 4.0, "ns")),),
        floor=Beside.figures("hashing", ours, Spread.single(keys / 2, "ns")),
        targets=(Target("<=", 0.3, "py-lmdb*"), Target("<=", 1.6, FLOOR), Target("<=", 0.04, "redis*")),
        skipped=(Skipped("redis", "redis is not installed"),),
        at=Point(plot, panel, "keys", keys),
    )


def found(*rows: Row) -> Report:
    return Report(ABOUT, [("commit", each) for each in rows], {"commit": 1.5}, [])


def test_json_keeps_every_figure_and_verdict(tmp_path: Path) -> None:
    write(found(row(100)), tmp_path)
    whole = json.loads((tmp_path / "results.json").read_text())
    assert whole["about"] == ABOUT
    assert whole["seconds"] == {"commit": 1.5}
    (record,) = whole["rows"]
    assert record["ours"] == {"p50": 100.0, "p95": 300.0, "p99": 300.0, "mean": 500 / 3, "unit": "ns"}
    assert [(each["name"], each["ratio"]) for each in record["peers"]] == [("py-lmdb put", 0.25)]
    assert (record["floor"]["name"], record["floor"]["ratio"]) == ("hashing", 2.0)
    assert [each["verdict"] for each in record["targets"]] == ["met", "missed", "skipped"]
    assert record["verdict"] == "missed"
    assert record["skipped"] == [{"name": "redis", "reason": "redis is not installed", "installed": False}]
    assert record["at"] == {"plot": "commit and publish", "panel": "48 B values", "axis": "keys", "x": 100}


def test_markdown_says_what_was_missed_and_skipped_and_where_it_ran(tmp_path: Path) -> None:
    write(found(row(100)), tmp_path)
    text = (tmp_path / "results.md").read_text()
    for part in ABOUT.values():
        assert part in text
    assert "- commit 1 key of 100: 2.00 x hashing (target <= 1.60 x)" in text
    assert "- skipped: redis (redis is not installed)" in text
    assert "## commit (1.5 s)" in text
    assert "n = 3" in text


def test_a_curve_goes_through_the_medians_from_left_to_right() -> None:
    placed = [(each.at, each) for each in (row(1000), row(100)) if each.at]
    assert curves(placed) == {
        "helios_shm": [(100, 0.1), (1000, 1.0)],
        "py-lmdb put": [(100, 0.4), (1000, 4.0)],
        "floor: hashing": [(100, 0.05), (1000, 0.5)],
    }


def test_one_plot_is_written_for_each_workload(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [row(100), row(1000), row(100, "1 KiB values"), row(100, plot="read a key")]
    paths = draw(found(*rows), tmp_path)
    assert [path.name for path in paths] == ["commit-and-publish.svg", "read-a-key.svg"]
    text = paths[0].read_text()
    assert text.count('<g id="axes_') == 2
    assert ABOUT["machine"] in text and ABOUT["commit"] in text and "n = 9 of ours" in text


def test_without_matplotlib_nothing_is_drawn_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError):
        importlib.import_module("matplotlib")
    assert draw(found(row(100)), tmp_path) == []
    assert capsys.readouterr().out == "no plots: matplotlib is not installed\n"
    assert list(tmp_path.iterdir()) == []
