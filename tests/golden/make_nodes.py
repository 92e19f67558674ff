"""Writes nodes_v1.txt, the golden nodes of format version 1: `python tests/golden/make_nodes.py`.

A line is: name, id, bytes, in hexadecimal; `tree.<name>` is a whole state's root id, without bytes.
The file is made by the plain-Python twin and checked against the C codec; a change in it is a change of
the format.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import model  # noqa: E402

EXAMPLE = {b"app/a": (model.FILE, b"hi"), b"app/b": (model.SYMLINK, b""), b"app/cc": (model.FILE, b"x" * 65)}


def board(count: int) -> model.State:
    return {b"perf/%02d/file_%04d.dat" % (i % 37, i): (model.FILE, b"v%d" % i) for i in range(count)}


def nodes() -> dict[str, model.Node]:
    long_keys = [(b"k" * 1023 + bytes([i]), (model.FILE, bytes(64))) for i in range(3)]
    prefixes = [(b"a" * (i + 1), (i % 5, b"b" * i)) for i in range(16)]
    low = [model.leaf(prefixes[:8]), model.leaf(prefixes[8:])]
    return {
        "empty": model.leaf([]),
        "example": model.leaf(sorted(EXAMPLE.items())),
        "one": model.leaf([(b"\x00", (model.EXECUTABLE, b"\xff" * 64))]),
        "long": model.leaf(long_keys),
        "prefixes": model.leaf(prefixes),
        "inner": model.inner(low, 1),
        "inner_of_one": model.inner(low[:1], 1),
        "level_23": model.inner(low, 23),
    }


def lines() -> list[str]:
    found = [f"{name} {node.id.hex()} {node.data.hex()}" for name, node in nodes().items()]
    return found + [f"tree.{n} {model.root_id(board(n)).hex()}" for n in (0, 1, 16, 17, 100, 2000)]


if __name__ == "__main__":
    (HERE / "nodes_v1.txt").write_text("\n".join(lines()) + "\n")
