"""Growth as pictures: one SVG a workload, one pair of axes for each thing held fixed, one line a contender.

    fork.svg    +- 48 B values --+  +- 64 KiB values +
                | ours  __..--   |  | ...            |     x: keys, processes, ... (log)   y: p50 (log)
                | dict.copy ..'' |  |                |     ours thick, the floor dashed
                +----------------+  +----------------+

Drawn from the rows that say where they stand (`Row.at`). Without matplotlib nothing is drawn, and that is said.
"""

import importlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, TypeAlias

from .harness import Point, Row
from .results import Report

Curve: TypeAlias = list[tuple[float, float]]
Placed: TypeAlias = tuple[Point, Row]
OURS = "helios_shm"
AXES = {
    "ns": "microseconds an operation (p50)",
    "/s": "a second",
    "bytes": "bytes",
    "x": "times",
    "%": "per cent",
}
SCALE = {"ns": 1e-3}


def curves(rows: list[Placed]) -> dict[str, Curve]:
    """Who -> its points, from left to right. A name borne twice at one x keeps its smallest figure."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for at, row in rows:
        sides = [(OURS, row.ours), *((peer.name, peer.spread) for peer in row.peers)]
        if row.floor:
            sides.append((f"floor: {row.floor.name}", row.floor.spread))
        for name, spread in sides:
            if spread.unit == row.ours.unit:
                figure = spread.p50 * SCALE.get(spread.unit, 1.0)
                found[name][at.x] = min(figure, found[name].get(at.x, figure))
    return {name: sorted(points.items()) for name, points in found.items()}


def grouped(found: Report) -> dict[str, dict[str, list[Placed]]]:
    """plot -> panel -> its rows, in the order of the report."""
    plots: dict[str, dict[str, list[Placed]]] = {}
    for _, row in found.rows:
        if row.at:
            plots.setdefault(row.at.plot, {}).setdefault(row.at.panel, []).append((row.at, row))
    return plots


def library(name: str) -> str:
    """Who it is, without what was called: all works of a peer have one colour."""
    return name if name.startswith("floor: ") else name.split()[0].rstrip(",")


def fill(axes: Any, panel: str, rows: list[Placed], colours: dict[str, Any]) -> None:
    """One pair of axes."""
    for name, points in curves(rows).items():
        style = (
            {"linewidth": 2.4, "color": "black"}
            if name == OURS
            else {"linewidth": 1.0, "color": colours[name]}
        )
        dashes = "--" if name.startswith("floor: ") else "-"
        axes.plot(*zip(*points, strict=True), dashes, marker="o", markersize=3, label=name, **style)
    axes.set(
        xscale="log", yscale="log", title=panel, xlabel=rows[0][0].axis, ylabel=AXES[rows[0][1].ours.unit]
    )
    axes.grid(True, which="major", linewidth=0.3)


def draw(found: Report, directory: Path) -> list[Path]:
    """Writes one SVG a plot; returns their paths."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ImportError:
        print("no plots: matplotlib is not installed")
        return []
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    written = []
    for plot, panels in grouped(found).items():
        names = sorted({name for rows in panels.values() for name in curves(rows)} - {OURS})
        libraries = sorted({library(name) for name in names})  # one colour each, whatever is called
        palette = {each: pyplot.get_cmap("tab20")(at % 20) for at, each in enumerate(libraries)}
        colours = {name: palette[library(name)] for name in names}
        across = min(len(panels), 3)
        down = -(-len(panels) // across)
        figure, grid = pyplot.subplots(down, across, figsize=(6 * across, 4.4 * down + 1.2), squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, (panel, rows) in zip(grid.flat, panels.items(), strict=False):
            fill(axes, panel, rows, colours)
        lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="lower center", ncols=3, fontsize=7)
        operations = sum(row.n for rows in panels.values() for _, row in rows)
        about = f"{found.about['machine']}; commit {found.about['commit']}; n = {operations:,} of ours"
        figure.suptitle(f"{plot}\n{about}; {found.about['kind']}", fontsize=8)
        figure.tight_layout(rect=(0, 0.08 + 0.015 * len(names) / 3 / down, 1, 0.97))
        path = directory / f"{re.sub('[^a-z0-9]+', '-', plot.lower())}.svg"
        figure.savefig(path)
        pyplot.close(figure)
        written.append(path)
    return written
