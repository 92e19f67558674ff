"""Programs that tests start in order to interrupt, stop or kill them."""

import os


def untraced() -> dict[str, str]:
    """This environment without what makes a program measure its own coverage.

    Coverage's tracer takes locks of its own: an exception that a signal raises inside one, or a fork beside one,
    leaves it locked, and the program hangs at its end. What such programs run, tests in this process run as well.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
