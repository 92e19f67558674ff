"""``Search`` against the twin: every count of every state, after any calls, by every formula."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

import helios_shm
from helios_shm import Engine
from helios_shm.mcts import Search, Trial
from helios_shm.mcts.table import Table
from tests.mcts.made import KEY, Made
from tests.mcts.twin import Formula, Twin, Walk

# Sums of the same numbers in the same order; what is left is how libm rounds, if it is another one.
CLOSE = 1e-9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path: Path = tmp_path_factory.mktemp("twin") / "store"
    with helios_shm.open(path) as engine:
        yield engine


games = st.builds(
    Made,
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(["tree", "dag", "graph"]),
    num_players=st.integers(1, 4),
    branching=st.integers(2, 6),
    depth=st.integers(2, 6),
    width=st.integers(3, 40),
    chance=st.sampled_from([0.0, 0.4]),
    pays=st.sampled_from([0.0, 0.5]),
    has_priors=st.booleans(),
    noise=st.sampled_from([0.0, 0.5]),
)
formulae = st.builds(
    Formula,
    selection=st.sampled_from(["uct", "puct"]),
    c=st.sampled_from([0.3, 1.25, 2**0.5]),
    discount=st.sampled_from([1.0, 0.9]),
    in_flight=st.sampled_from(["wu-uct", "virtual-loss"]),
    virtual_loss=st.sampled_from([1.0, 0.25]),
    widening=st.sampled_from([None, (1.0, 0.5), (2.0, 0.3)]),
    fpu=st.sampled_from([None, -1.0, 0.5]),
    normalize=st.booleans(),
    depth_max=st.sampled_from([3, 1000]),
)
# ("run", simulations), ("ask", trials), ("tell", which of those that wait, with priors or without)
calls = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(1, 150)),
        st.tuples(st.just("ask"), st.integers(1, 6)),
        st.tuples(st.just("tell"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("again"), st.integers(0, 5)),
    ),
    min_size=1,
    max_size=6,
)


def searching(engine: Engine, game: Made, by: Formula, seed: int, **options: Any) -> Search[int]:
    """A search that chooses by this formula."""
    return Search(
        game,
        game.root(engine),
        seed=seed,
        selection=by.selection,
        c_uct=by.c,
        c_puct=by.c,
        discount=by.discount,
        in_flight=by.in_flight,
        virtual_loss=by.virtual_loss,
        widening=by.widening,
        fpu=by.fpu,
        normalize=by.normalize,
        depth_max=by.depth_max,
        table_bytes=8 << 20,
        **options,
    )


class Both:
    """A search and its twin, side by side."""

    def __init__(self, engine: Engine, search: Search[int], twin: Twin) -> None:
        self.engine, self.search, self.twin = engine, search, twin
        self.waiting: list[tuple[Trial[int], Walk]] = []
        self.told: list[Trial[int]] = []

    def run(self, simulations: int) -> None:
        result = self.search.run(num_simulations=simulations)
        self.twin.run(simulations)
        assert result.num_simulations == simulations
        assert list(result.visit_counts.values()) == self.twin.visits()

    def ask(self, count: int) -> None:
        trials = self.search.ask(count)
        for trial in trials:
            walk = self.twin.ask([each for _, each in self.waiting])
            assert walk is not None
            assert trial.state[KEY] == walk.end
            self.waiting.append((trial, walk))
        if len(trials) < count:
            assert self.twin.ask([each for _, each in self.waiting]) is None

    def tell(self, which: int, with_priors: bool) -> None:
        if not self.waiting:
            return
        trial, walk = self.waiting.pop(which % len(self.waiting))
        game = self.twin.game
        values = game.vector("told", walk.end)
        logits = game.logits_of(walk.end) if with_priors else None
        self.search.tell(trial.id, values, prior_logits=logits)
        self.twin.tell(walk, values, logits)
        self.told.append(trial)

    def again(self, which: int) -> None:
        """Tell what was told: nothing happens."""
        if self.told:
            self.search.tell(self.told[which % len(self.told)].id, [9.0] * self.twin.game.num_players)

    def agree(self) -> None:
        """Every state, every action."""
        table: Table = self.search._forest.tables[0]
        rows = {self.engine.snapshot(row.id.hex())[KEY]: (number, row) for number, row in table.rows()}
        assert rows.keys() == self.twin.states.keys()
        for at, state in self.twin.states.items():
            number, row = rows[at]
            assert (row.own_visits, row.num_actions) == (state.own_visits, len(state.edges)), at
            assert row.own_value_sum == pytest.approx(state.own_sum, rel=CLOSE, abs=CLOSE)
            for edge, plain in zip(table.edges(number), state.edges, strict=True):
                assert (edge.visits, edge.in_flight) == (plain.visits, plain.in_flight), at
                assert edge.value_sum == pytest.approx(plain.value_sum, rel=CLOSE, abs=CLOSE)
                assert edge.prior == pytest.approx(plain.prior, rel=1e-6)


@settings(max_examples=120)
@given(game=games, by=formulae, made=calls, seed=st.integers(0, 2**32))
def test_a_search_counts_what_its_twin_counts(
    store: Engine, game: Made, by: Formula, made: list[tuple[Any, ...]], seed: int
) -> None:
    note(f"{game} {by} {made}")
    with searching(store, game, by, seed) as search:
        both = Both(store, search, Twin(game, by, seed))
        for name, *arguments in made:
            getattr(both, name)(*arguments)
            both.agree()
