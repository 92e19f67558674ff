"""One run of one stage, in the root of the tree that it judges; prints its Outcome as JSON. ``__main__`` starts these.

python -m tests.crash.one '{"stage": "power_loss", "seed": 1, "scale": 1.0, "directory": "/...", "mutant": null}'
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from pathlib import Path

from tests.crash.stage import Outcome, Run


def main() -> None:
    asked = json.loads(sys.argv[1])
    stage = importlib.import_module(f"tests.crash.stages.{asked['stage']}")
    run = Run(asked["seed"], asked["scale"], Path(asked["directory"]), Path.cwd(), asked["mutant"])
    # What a stage's children print is for who reads its log; the outcome alone goes to our standard output.
    answer = os.dup(1)
    os.dup2(2, 1)
    outcome: Outcome = stage.prove(run)
    os.write(answer, json.dumps(dataclasses.asdict(outcome)).encode())


if __name__ == "__main__":
    main()
