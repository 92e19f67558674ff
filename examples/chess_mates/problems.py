"""The problem set: mates in one to three from games and studies, one EPD line each in problems.epd.

    <position> dm <moves>; id "<name>"; c0 "<source>"; keys "<first moves in UCI>";

Invariants, which the tests prove by exhaustive search: the side to move forces mate in `dm` moves and not in
fewer, and `keys` holds every first move that does.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files

import chess


@dataclass(frozen=True, slots=True)
class Problem:
    """A position whose side to move forces mate in `mate_in` moves; `keys` (UCI) begin it."""

    name: str
    source: str
    epd: str
    mate_in: int
    keys: frozenset[str]

    @property
    def board(self) -> chess.Board:
        return chess.Board(f"{self.epd} 0 1")

    @property
    def plies(self) -> int:
        return 2 * self.mate_in - 1


def load(pattern: str = "*") -> list[Problem]:
    """The problems whose name matches the shell-style `pattern`, in the order of the file."""
    lines = files(__package__).joinpath("problems.epd").read_text(encoding="utf-8").splitlines()
    problems = [_parse(line) for line in lines if line.strip()]
    return [problem for problem in problems if fnmatchcase(problem.name, pattern)]


def _parse(line: str) -> Problem:
    board, fields = chess.Board.from_epd(line)
    return Problem(
        name=str(fields["id"]),
        source=str(fields["c0"]),
        epd=board.epd(),
        mate_in=int(str(fields["dm"])),
        keys=frozenset(str(fields["keys"]).split()),
    )
