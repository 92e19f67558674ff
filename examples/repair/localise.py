"""Which lines are suspicious: run by ``python localise.py PACKAGE TESTS`` in the directory of a candidate.

Each test runs with its lines traced. A line through which failing tests go, and passing ones do not, is suspicious:
failing / sqrt(all failing * all that go through it), from 0 to 1 (Ochiai; Abreu, Zoeteweij & van Gemund 2007). The last
line of the output is JSON: file -> line -> suspicion.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import defaultdict

import coverage
import pytest


class Spectrum:
    """A pytest plugin: which test ran through which lines, and which failed."""

    def __init__(self, package: str) -> None:
        omit = [f"{package}/tests/*"]
        self.coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{package}/*"], omit=omit, messages=False
        )
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> object:
        self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        except BaseException:
            self.failed.add(item.nodeid)
            raise
        finally:
            self.coverage.switch_context("")

    def suspicion(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = defaultdict(dict)
        data = self.coverage.get_data()
        for file in data.measured_files():
            for line, tests in data.contexts_by_lineno(file).items():
                through = {test for test in tests if test}
                failing = len(through & self.failed)
                if failing:
                    suspicion = failing / math.sqrt(len(self.failed) * len(through))
                    found[os.path.relpath(file)][line] = round(suspicion, 4)
        return found


def main(package: str, tests: str) -> None:
    sys.path.insert(0, "")
    spectrum = Spectrum(package)
    spectrum.coverage.start()
    pytest.main(["-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", tests], plugins=[spectrum])
    spectrum.coverage.stop()
    print("\n" + json.dumps(spectrum.suspicion()))


if __name__ == "__main__":
    main(*sys.argv[1:])
