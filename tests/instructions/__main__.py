"""``make instructions``: counts the instructions of the six hottest operations and compares them with the record.

    python -m tests.instructions                       compare; judge only in the recorded environment
    python -m tests.instructions --strict              compare; another environment than the recorded one fails
    python -m tests.instructions --record "reason"     write today's figures into the record

Ends with 1 if a figure grew or fell too much, with 2 if nothing could be counted or the record cannot be used.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence

from tests.crash.debian import NotInstalled
from tests.crash.tree import ROOT
from tests.instructions import count, record
from tests.instructions.record import RECORDED, Record, RecordError
from tests.instructions.worker import OPERATIONS


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    # Asked to end, it still lets the store's coordinator go on.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.record is not None:
            return _record(options.record)
        return _compare(options.strict)
    except (RecordError, NotInstalled, count.NotCounted) as error:
        print(error, file=sys.stderr)
        return 2


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.instructions", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--strict", action="store_true", help="fail in another environment than the recorded one"
    )
    parser.add_argument("--record", metavar="REASON", help="write today's figures into the record, and why")
    return parser.parse_args(arguments)


def _compare(strict: bool) -> int:
    recorded = record.parse(RECORDED.read_text(), OPERATIONS)
    count.install()
    elsewhere = record.differences(recorded, count.environment())
    if strict and elsewhere:
        raise RecordError(
            "\n  ".join(["not the environment that the figures were recorded in:", *elsewhere])
            + '\nRecord them here: make instructions-record REASON="..."'
        )
    counted = count.count()
    _show(recorded, counted)
    complaints = record.complaints(recorded, counted)
    if elsewhere:
        print("\n  ".join(["not judged, because this is not the recorded environment:", *elsewhere]))
        return 0
    if complaints:
        print("\n  ".join(["", *complaints]))
        print('record: make instructions-record REASON="..."')
        print(f"where they go: callgrind_annotate {count.KEPT.relative_to(ROOT)}/callgrind.out.N")
        return 1
    print(f"{len(counted)} operations within {record.TOLERANCE:.0%} of their record")
    return 0


def _record(reason: str) -> int:
    record.checked_reason(reason, "recording")  # before minutes are spent
    count.install()
    before = None
    if RECORDED.exists():
        before = record.parse(RECORDED.read_text())
    counted = count.count()
    after = record.renewed(before, count.environment(), counted, reason)
    if before is not None:
        _show(before, counted)
    RECORDED.write_text(record.render(after))
    for name, figure in after.figures.items():
        if before is None or before.figures.get(name) != figure:
            print(f"recorded {name}: {figure.instructions:,.1f}")
    return 0


def _show(recorded: Record, counted: Mapping[str, float]) -> None:
    """Today's figures beside the recorded ones."""
    print(f"{'instructions of one':<20} {'recorded':>12} {'now':>12} {'change':>8}")
    for name, now in counted.items():
        before = recorded.figures.get(name)
        if before is None:
            print(f"{name:<20} {'none':>12} {now:>12,.1f}")
        else:
            moved = record.change(before.instructions, now)
            print(f"{name:<20} {before.instructions:>12,.1f} {now:>12,.1f} {moved:>+8.1%}")


if __name__ == "__main__":
    sys.exit(main())
