"""Tic-tac-toe, which is solved: what a search chooses and what it says a position is worth, beside minimax.

The 627 positions in which somebody moves, of those that turning and mirroring the board does not make equal. A test
takes every eighth; the slow one takes all.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

import pytest

pyspiel: Any = pytest.importorskip("pyspiel")

import helios_shm  # noqa: E402
from helios_shm import Engine  # noqa: E402
from helios_shm.mcts import Search  # noqa: E402
from helios_shm.mcts.games.open_spiel import OpenSpiel  # noqa: E402

_TURN = (6, 3, 0, 7, 4, 1, 8, 5, 2)
_MIRROR = (2, 1, 0, 5, 4, 3, 8, 7, 6)


@pytest.fixture(scope="module")
def store() -> Iterator[Engine]:
    with helios_shm.open(None) as engine:
        yield engine


def squares(position: Any) -> str:
    return str(position).replace("\n", "")


def alike(position: Any) -> str:
    """The same for all positions that are one position, turned and mirrored."""
    found, board = [], squares(position)
    for _ in range(4):
        board = "".join(board[square] for square in _TURN)
        found += [board, "".join(board[square] for square in _MIRROR)]
    return min(found)


def positions(start: Any) -> list[Any]:
    """One of each kind, in which somebody moves."""
    found, waiting = {alike(start): start}, [start]
    while waiting:
        position = waiting.pop()
        for child in (position.child(action) for action in position.legal_actions()):
            if not child.is_terminal() and alike(child) not in found:
                found[alike(child)] = child
                waiting.append(child)
    return list(found.values())


def worth(position: Any, known: dict[str, float]) -> float:
    """What the position is worth to the first player, by minimax."""
    key = squares(position)
    if key not in known:
        if position.is_terminal():
            known[key] = position.returns()[0]
        else:
            values = [worth(position.child(action), known) for action in position.legal_actions()]
            known[key] = max(values) if position.current_player() == 0 else min(values)
    return known[key]


def converges(store: Engine, step: int) -> None:
    env, known = OpenSpiel("tic_tac_toe"), dict[str, float]()
    errors: dict[int, list[float]] = {500: [], 2000: [], 10_000: []}
    found = positions(env.game.new_initial_state())
    assert len(found) == 627
    for number, position in enumerate(found[::step]):
        side = 1 if position.current_player() == 0 else -1
        exact = side * worth(position, known)
        with Search(env, env.root(store, position), seed=number, table_bytes=16 << 20) as search:
            done = 0
            for simulations, off in errors.items():
                result = search.run(simulations - done)
                done = simulations
                off.append(abs(result.value - exact))
            chosen = side * worth(position.child(result.action), known)
            assert chosen == exact, f"{position}\n{result}, and {exact:+g} can be had"
    few, more, most = (statistics.fmean(off) for off in errors.values())
    assert few > 1.5 * more > 2 * most, "the more simulations, the nearer"
    assert most < 0.015 and statistics.median(errors[10_000]) < 0.005


def test_every_choice_is_best_and_values_become_exact(store: Engine) -> None:
    converges(store, 8)


@pytest.mark.slow
def test_every_choice_is_best_and_values_become_exact_in_all_positions(store: Engine) -> None:
    converges(store, 1)


@pytest.mark.parametrize(("workers", "parallel"), [(1, "tree"), (2, "tree"), (2, "root")])
def test_an_empty_board_is_a_draw(store: Engine, workers: int, parallel: Any) -> None:
    env = OpenSpiel("tic_tac_toe")
    with Search(env, env.root(store), workers=workers, parallel=parallel, seed=3, c_uct=0.4) as search:
        assert abs(search.run(50_000).value) < 0.12
