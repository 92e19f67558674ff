"""stats and top: what all processes of a store do together, once and live."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click

from .. import Engine, Stats
from .options import Command, json_option, pass_place
from .output import columns, console, line, paint, report, seconds, size, visible
from .store import Place

_BAR_CELLS = 24
# A distribution's steps are for Prometheus; who reads JSON reads percentiles.
_NOT_IN_JSON = "cumulative"


def _plain(value: object) -> Any:
    """Figures for JSON."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value) if field.name != _NOT_IN_JSON]
        return {name: _plain(getattr(value, name)) for name in names}
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value


@click.command(cls=Command)
@click.option("--prometheus", is_flag=True, help="As Prometheus reads it.")
@json_option
@pass_place
def stats(place: Place, prometheus: bool, as_json: bool) -> None:
    """Show the counters of all processes together.

    Since the store's shared memory was made: it lives for as long as any process has the store open. Times in seconds.
    """
    with place.read() as engine:
        found = engine.stats()
        if prometheus:
            line(found.prometheus().rstrip("\n"))
        elif as_json:
            report(_plain(found))
        else:
            columns([(paint(name, "heading"), text) for name, text in _figures(found)])


def _figures(found: Stats) -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, dict):
            show = seconds if field.name == "latencies" else _size
            for name, spread in value.items():
                if spread.count:
                    text = f"{spread.count} times, p50 {show(spread.p50)}, p99 {show(spread.p99)}"
                    yield f"{field.name}.{name}", f"{text}, max {show(spread.max)}"
        elif field.name.endswith("bytes"):
            yield field.name, f"{value} ({size(value)})" if value >= 1024 else str(value)
        elif field.name == "hit_rate":
            yield field.name, f"{value:.1%}"
        else:
            yield field.name, seconds(value) if isinstance(value, float) else visible(str(value))


def _size(count: float) -> str:
    return size(round(count))


# --- live ---


@dataclass(frozen=True, slots=True)
class Frame:
    """What there is to see at one moment: figures, and what they changed by in the time since the last."""

    stats: Stats
    before: Stats
    elapsed: float

    def rate(self, name: str) -> float:
        """How much a counter grew in a second."""
        return float((getattr(self.stats, name) - getattr(self.before, name)) / self.elapsed)

    @property
    def hit_rate(self) -> float | None:
        """Of the look-ups since the last frame; None: there were none."""
        hits, misses = (getattr(self.stats, name) - getattr(self.before, name) for name in ("hits", "misses"))
        return hits / (hits + misses) if hits + misses else None

    @property
    def occupied(self) -> float:
        """Share of the ring that is not free for use."""
        return 1 - self.stats.free_bytes / self.stats.l1_bytes

    def fields(self) -> dict[str, Any]:
        commit = self.stats.latencies["commit"]
        return {
            "commits_per_second": self.rate("commits"),
            "conflicts_per_second": self.rate("conflicts"),
            "l2_reads_per_second": self.rate("l2_reads"),
            "commit_p50": commit.p50,
            "commit_p99": commit.p99,
            "hit_rate": self.hit_rate,
            "participants": self.stats.participants,
            "ring_bytes": self.stats.l1_bytes,
            "ring_occupied": self.occupied,
            "unpersisted_bytes": self.stats.unpersisted_bytes,
            "persist_lag": self.stats.persist_lag,
            "rounds_per_second": self.rate("rounds"),
            "coordinator_pid": self.stats.coordinator_pid,
        }

    def rows(self) -> list[tuple[str, str]]:
        now, commit, round_ = self.stats, self.stats.latencies["commit"], self.stats.latencies["round"]
        lately = "-" if self.hit_rate is None else f"{self.hit_rate:.1%}"
        kinds = ("free", "busy", "idle", "sealed")
        chunks = ", ".join(f"{size(getattr(now, f'{kind}_bytes'))} {kind}" for kind in kinds)
        return [
            ("commits", f"{self.rate('commits'):.0f}/s, {now.commits} in all"),
            ("latency", f"p50 {seconds(commit.p50)}, p99 {seconds(commit.p99)}, max {seconds(commit.max)}"),
            ("conflicts", f"{self.rate('conflicts'):.0f}/s, {self.rate('lost_races'):.0f}/s began anew"),
            ("hit rate", f"{lately} lately, {now.hit_rate:.1%} in all"),
            ("disk reads", f"{self.rate('l2_reads'):.0f}/s"),
            ("participants", str(now.participants)),
            ("ring", f"[{bar(self.occupied)}] {self.occupied:.0%} of {size(now.l1_bytes)}: {chunks}"),
            ("coordinator", f"pid {now.coordinator_pid or 'none'}, {self.rate('rounds'):.1f} rounds/s, "
             f"p99 {seconds(round_.p99)}"),
            ("lag", f"{seconds(now.persist_lag)}, {size(now.unpersisted_bytes)} not on disk"),
        ]  # fmt: skip


def _nobody_presses(duration: float) -> str:
    _pause(duration)
    return ""


def bar(share: float) -> str:
    """A share from 0 to 1, drawn."""
    full = round(max(0.0, min(share, 1.0)) * _BAR_CELLS)
    return "#" * full + "." * (_BAR_CELLS - full)


@click.command(cls=Command)
@click.option(
    "--interval", "-i", type=click.FloatRange(0.05), default=1.0, show_default=True, metavar="SECONDS",
    help="From frame to frame.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print one frame, after one interval, and leave.")
@click.option("--json", "as_json", is_flag=True, help="With --once: report in JSON.")
@pass_place
def top(place: Place, interval: float, once: bool, as_json: bool) -> None:
    """Show live what the store's processes do.

    Commits, their latency, hits in shared memory, participants, the ring, and how far the disk lags behind. q leaves.
    """
    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    if not once and not sys.stdout.isatty():
        raise click.UsageError("a live view needs a terminal; say --once for one frame")
    with place.read() as engine:
        if once:
            frame = next(_frames(engine, interval, _pause))
            report(frame.fields()) if as_json else columns(
                [(paint(name, "heading"), text) for name, text in frame.rows()]
            )
        else:
            _live(engine, interval)


def _pause(duration: float) -> bool:
    time.sleep(duration)
    return True


def _frames(engine: Engine, interval: float, pause: Callable[[float], bool]) -> Iterator[Frame]:
    """A frame after each pause, until one says that it is enough."""
    before, at = engine.stats(), time.monotonic()
    while pause(interval):
        now = time.monotonic()
        stats = engine.stats()
        yield Frame(stats, before, now - at)
        before, at = stats, now


def _live(engine: Engine, interval: float) -> None:
    from rich.live import Live
    from rich.table import Table

    with _keys() as pressed, Live(console=console(sys.stdout), screen=True, auto_refresh=False) as live:
        for frame in _frames(engine, interval, lambda duration: pressed(duration) not in ("q", "Q", "\x03")):
            table = Table.grid(padding=(0, 2))
            table.title = f"{visible(os.fspath(engine.path))}, every {interval:g} s; q leaves"
            for name, text in frame.rows():
                table.add_row(name, text.replace("[", "\\["))
            live.update(table, refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What is pressed within so many seconds, without Enter; ``''`` for nothing, also where nobody can press."""
    import termios
    import tty

    if not sys.stdin.isatty():
        yield _nobody_presses
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(duration: float) -> str:
        return os.read(fd, 1).decode(errors="replace") if select.select([fd], [], [], duration)[0] else ""

    try:
        tty.setcbreak(fd)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


ALL = (stats, top)
