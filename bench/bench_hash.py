"""What a commit costs beyond the hashing that it cannot avoid."""

import time
from collections.abc import Iterator

from .baselines import wheel_block_ns
from .harness import Beside, Edits, Row, Setting, Spread, show
from .states import blocks_hashed, build, store


def hashing(setting: Setting) -> Iterator[Row]:
    """Per commit: blocks compressed, time in C and in Python, and the time of as many blocks in the wheel."""
    block_ns = wheel_block_ns(setting.scale(50, 5))
    with store(setting) as engine:
        for size in (1024, 48):
            branch = engine.branch(f"of-{size}")
            build(branch, 100, size)
            workspace, edits = branch.fork(), Edits(100, size)
            native, python = list[float](), list[float]()
            before = blocks_hashed(engine)
            for key, value in edits.as_text(setting.scale(5_000, 100)):
                start = time.perf_counter_ns()
                workspace[key] = value
                commit = workspace.commit()
                python.append(time.perf_counter_ns() - start)
                native.append(commit.metrics.latency_ns)
            blocks = (blocks_hashed(engine) - before) / len(python)
            alone = Spread.single(blocks * block_ns, "ns")
            for where, figures in (("C", native), ("Python", python)):
                spread = Spread.of(figures, "ns")
                yield Row(
                    operation=f"commit 1 key of 100 x {size} B, {blocks:.1f} blocks hashed, {where}",
                    n=len(figures),
                    ours=spread,
                    floor=Beside.figures("BLAKE3 alone for those blocks (wheel)", spread, alone),
                    note=f"the wheel takes {show(block_ns, 'ns')} a block of one chunk",
                )
