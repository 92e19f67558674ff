"""The command line: `python -m examples.chess_mates` from the root of the repository.

Exit code 0 if all problems were solved, 1 if not, 2 for a wrong command line, 128 + n if ended by signal n
(Ctrl-C: 130). However it ends, no worker is left, and the store is closed.
"""

import signal
import sys


def _main() -> int:
    # Until the imports are done there is nothing to clean up, and a Ctrl-C can end the process as it is.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main

    # main answers signals as long as there is something to end; one that comes after that changes nothing.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return main()


if __name__ == "__main__":
    sys.exit(_main())
