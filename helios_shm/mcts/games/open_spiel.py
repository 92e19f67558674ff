"""The games of OpenSpiel in which the players move one after the other and see everything.

    states="history"   history/0  "3 3 2 4 ..."     the actions from the beginning, 64 a key; the game itself tells
                       history/1  ...               the rest by being replayed
    states="sorted"    the same, each player's actions in the order of their numbers, where that makes the same position
    states="fields"    state      {"board":...}     the game's own JSON, where it can be read back

Which of them: fields where OpenSpiel can read its JSON back and nothing is lost (``FIELDS``); sorted for games that
never look at their past, and whose text says all (``SORTED``); else histories. Some games look at their past
(repetitions, ko), some write down less than they know: the history is what no game can miss. But move orders meet only
in the other two.

Chance moves where the game says so, by ``chance_outcomes``. A game with rewards on the way (2048) gives them by
``step``: the change of ``State.returns()``, so that they add up to it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Literal

from ... import Engine, Snapshot, Workspace
from ..environment import CHANCE
from .recent import Recent

try:
    import pyspiel
except ImportError as error:
    raise ImportError(
        'helios_shm.mcts.games.open_spiel needs the package open_spiel: pip install "helios-shm[open_spiel]"'
    ) from error

# The games whose JSON says all: read back, they go on as they would have.
FIELDS = frozenset({"catch", "connect_four", "tic_tac_toe"})
# The games in which nothing comes back, whose ``str(state)`` says all that the rules look at, and in which the order of
# moves often does not matter. Connections are made in them, squares filled, heaps and pieces taken.
SORTED = frozenset(
    {
        *("breakthrough", "clobber", "dots_and_boxes", "gomoku", "havannah", "hex"),
        *("mnk", "morpion_solitaire", "nim", "twixt", "y"),
    }
)
_STATES_KEPT = 512
_ACTIONS_A_KEY = 64
_STATE = "state"

# What a state is known by in this process: the bytes of its keys.
_Content = bytes


class OpenSpiel:
    """The environment of a game. Actions are OpenSpiel's own, ints.

    game: a game, or what ``pyspiel.load_game`` takes: a name, with parameters in brackets.
    states: see above; default: ``fields`` for the games in ``FIELDS``, ``sorted`` for those in ``SORTED``, else
        ``history``. ``sorted`` costs a replay for each action.

    Raises ValueError for a game that it is not for: players who move at once, hidden information, chance that is
    drawn inside, no JSON to read back; pyspiel.SpielError for one that OpenSpiel does not know.
    """

    def __init__(
        self,
        game: str | Any,
        parameters: Mapping[str, Any] | None = None,
        *,
        states: Literal["fields", "sorted", "history"] | None = None,
    ) -> None:
        if isinstance(game, str):
            game = pyspiel.load_game(game, dict(parameters)) if parameters else pyspiel.load_game(game)
        kind = game.get_type()
        _refuse(kind)
        if states not in (None, "fields", "sorted", "history"):
            raise ValueError(f"states is 'fields', 'sorted' or 'history', not {states!r}")
        self.game = game
        self.num_players: int = game.num_players()
        self.states = states or _states_of(kind.short_name)
        self._rewards = kind.reward_model != pyspiel.GameType.RewardModel.TERMINAL
        self._recent: Recent[_Content, Any] = Recent(_STATES_KEPT)
        if self.states == "fields":
            _see_that_fields_suffice(game, self._rewards)

    def root(self, engine: Engine, state: Any = None) -> Snapshot:
        """The state of the game's beginning, or of a ``pyspiel.State`` of this game."""
        state = self.game.new_initial_state() if state is None else state
        if str(state.get_game()) != str(self.game):
            raise ValueError(f"a state of {state.get_game()}, where one of {self.game} is expected")
        workspace = engine.empty.fork()
        if self.states == "fields":
            workspace[_STATE] = state.to_json().encode()
        else:
            self._write_history(workspace, self._in_order(state) if self.states == "sorted" else state)
        return workspace.commit().snapshot

    def position(self, state: Snapshot | Workspace) -> Any:
        """The ``pyspiel.State`` of a state; it is the caller's own."""
        return self._position(state).clone()

    # --- the environment ---

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        actions: Sequence[int] = self._position(state).legal_actions()
        return actions

    def apply(self, state: Workspace, action: int) -> None:
        before = self._position(state)
        # OpenSpiel itself does not look, and an action that is not there ends some games' process.
        if action not in before.legal_actions():
            raise ValueError(f"{action!r} is no action of {self.game} in the state {str(before)!r}")
        after = before.clone()
        after.apply_action(action)
        self._write(state, after, action)

    @property
    def step(self) -> Callable[[Workspace, int], Sequence[float]] | None:
        """``apply`` that returns the rewards; None in games that pay at the end alone."""
        return self._step if self._rewards else None

    def _step(self, state: Workspace, action: int) -> Sequence[float]:
        before = self._position(state)
        self.apply(state, action)
        return [
            now - then for now, then in zip(self._position(state).returns(), before.returns(), strict=True)
        ]

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        position = self._position(state)
        if not position.is_terminal():
            return None
        if self._rewards:
            return [0.0] * self.num_players
        returns: Sequence[float] = position.returns()
        return returns

    def current_player(self, state: Snapshot) -> int:
        player: int = self._position(state).current_player()
        return CHANCE if player == pyspiel.PlayerId.CHANCE else player

    def chance_outcomes(self, state: Snapshot) -> Sequence[tuple[int, float]]:
        outcomes: Sequence[tuple[int, float]] = self._position(state).chance_outcomes()
        return outcomes

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        """Actions at random until the end, in a clone: what each player gets from here on, not discounted."""
        start = self._position(state)
        position = start.clone()
        while not position.is_terminal():
            if position.is_chance_node():
                actions, weights = zip(*position.chance_outcomes(), strict=True)
                position.apply_action(rng.choices(actions, weights)[0])
            else:
                actions = position.legal_actions()
                position.apply_action(actions[int(rng.random() * len(actions))])
        if not self._rewards:
            returns: Sequence[float] = position.returns()
            return returns
        return [end - now for end, now in zip(position.returns(), start.returns(), strict=True)]

    def encode(self, state: Snapshot) -> bytes:
        """The observation tensor of the player who moves (of player 0 where none does), as 32-bit floats in the
        machine's order."""
        position = self._position(state)
        player = max(0, position.current_player())
        return array("f", position.observation_tensor(player)).tobytes()

    # --- states and their keys ---

    def _position(self, state: Mapping[str, bytes]) -> Any:
        content = self._content(state)
        return self._recent.get(content) or self._recent.put(content, self._decode(content))

    def _content(self, state: Mapping[str, bytes]) -> _Content:
        if self.states == "fields":
            return state[_STATE]
        content = chunk = state["history/0"]
        for number in range(1, 1 << 30):
            if len(chunk) < _ACTIONS_A_KEY or chunk.count(b" ") < _ACTIONS_A_KEY - 1:
                break
            chunk = state.get(f"history/{number}", b"")
            content += b" " + chunk if chunk else b""
        return content

    def _decode(self, content: _Content) -> Any:
        if self.states == "fields":
            return self.game.new_initial_state(content.decode())
        # The state of the longest beginning that is known, and the rest by moves; nearly always the last one alone.
        beginning, _, last = content.rpartition(b" ")
        known = self._recent.get(beginning) if last and beginning else None
        position = self.game.new_initial_state() if known is None else known.clone()
        for action in (content if known is None else last).split():
            position.apply_action(int(action))
        return position

    def _write(self, state: Workspace, after: Any, action: int) -> None:
        if self.states == "fields":
            content = after.to_json().encode()
            state[_STATE] = content
        elif self.states == "sorted":
            after = self._in_order(after)
            content = self._write_history(state, after)
        else:
            content = self._content(state)
            place = content.count(b" ") + 1 if content else 0
            path = f"history/{place // _ACTIONS_A_KEY}"
            value = b"%d" % action
            state[path] = state[path] + b" " + value if place % _ACTIONS_A_KEY else value
            content = content + b" " + value if content else value
        self._recent.put(content, after)

    def _write_history(self, state: Workspace, position: Any) -> _Content:
        """Write a whole history; only the keys that differ are touched."""
        actions = [b"%d" % action for action in position.history()]
        for number, start in enumerate(range(0, max(1, len(actions)), _ACTIONS_A_KEY)):
            path, value = f"history/{number}", b" ".join(actions[start : start + _ACTIONS_A_KEY])
            if state.get(path) != value:
                state[path] = value
        return b" ".join(actions)

    def _in_order(self, position: Any) -> Any:
        """The same position by its actions in order; failing that, in order but for the last, which some games show;
        failing that, as they were."""
        for kept in (0, 1):
            again = self._replayed(position, kept)
            if again is not None and _looks(again) == _looks(position):
                return again
        return position

    def _replayed(self, position: Any, kept: int) -> Any:
        """Each player's actions by number, those of chance and the ``kept`` last as they were; None: no game."""
        waiting: dict[int, list[int]] = {}
        history = position.full_history()
        for taken in history[: len(history) - kept]:
            waiting.setdefault(taken.player, []).append(taken.action)
        for player, actions in waiting.items():
            actions.sort(reverse=True) if player >= 0 else actions.reverse()
        for taken in history[len(history) - kept :]:
            waiting.setdefault(taken.player, []).insert(0, taken.action)
        again = self.game.new_initial_state()
        for _ in history:
            ours = waiting.get(again.current_player())
            if not ours or ours[-1] not in again.legal_actions():
                return None
            again.apply_action(ours.pop())
        return again


def _states_of(name: str) -> Literal["fields", "sorted", "history"]:
    return "fields" if name in FIELDS else "sorted" if name in SORTED else "history"


def _looks(position: Any) -> tuple[Any, ...]:
    return str(position), position.current_player(), position.legal_actions(), position.returns()


def _refuse(kind: Any) -> None:
    """ValueError for a game of a kind that a search over states cannot play."""
    game_type = pyspiel.GameType
    if kind.dynamics != game_type.Dynamics.SEQUENTIAL:
        why = "players move at once in it (pyspiel.convert_to_turn_based makes one of hidden information)"
    elif kind.information != game_type.Information.PERFECT_INFORMATION:
        why = "players do not see everything in it, and the state of a search would show it to them"
    elif kind.chance_mode == game_type.ChanceMode.SAMPLED_STOCHASTIC:
        why = "chance moves inside its actions, so that an action has no one outcome"
    else:
        return
    raise ValueError(f"{kind.short_name} cannot be searched: {why}")


def _see_that_fields_suffice(game: Any, rewards: bool) -> None:
    start = game.new_initial_state()
    try:
        again = game.new_initial_state(start.to_json())
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{game} cannot be read back from JSON; use states='history'") from error
    if rewards or str(again) != str(start):
        raise ValueError(f"{game} says less in its JSON than it knows; use states='history'")
