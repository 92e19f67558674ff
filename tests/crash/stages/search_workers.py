"""Worker processes of a tree search die at random, all the while: the search ends with the right answer, and with every
count and sum as if nobody had died.

    search of a game whose every value is known, by 3 workers, in each of the modes
      ^ SIGKILL of a busy worker, again and again, at random
    afterwards: as many simulations as were asked for; nobody under way; visits and sums of each state are what went
                through it

Each search is a new one, so that deaths meet its beginning, its middle and its end. A death between two instructions of
one change is the matter of the stage "search kills"; here are worker processes, their pipes, and who takes their place.
"""

from __future__ import annotations

from dataclasses import replace

import helios_shm
from helios_shm import Engine
from helios_shm.mcts import Search
from tests.crash.stage import Outcome, Run
from tests.crash.tree import Mutant
from tests.mcts.test_search_proof import GAME, best_action, killing
from tests.mcts.whole import assert_nobody_is_under_way, assert_sums

TITLE = "search workers"
SECONDS = 40.0
MUTANTS = (
    Mutant(
        "nobody mends",
        "helios_shm/mcts/pool.py",
        "finished, undone = worker.table.repair(worker.owner)",
        "finished, undone = 0, 0",
        "What a dead worker was in the middle of would stay under way for ever.",
    ),
    Mutant(
        "the first edge stays entered",
        "csrc/hs_search_backup.c",
        "    while (entered > 0) {",
        "    while (entered > 1) {",
        "A simulation that is taken back leaves every edge that it entered.",
    ),
    Mutant(
        "what is taken back counts",
        "csrc/hs_search_backup.c",
        ".state = HS_SEARCH_UNDO, .level = --entered, .counts = -HS_SEARCH_IN_FLIGHT_ONE};",
        ".state = HS_SEARCH_UNDO, .level = --entered, .counts = HS_SEARCH_VISITS_ONE - HS_SEARCH_IN_FLIGHT_ONE};",
        "A simulation that is taken back never was.",
    ),
)

DEATHS = 120
SEARCHES_MAX = 400
SIMULATIONS = 1000
EVERY = {"tree": 0.02, "root": 0.05, "leaf": 0.05}


def prove(run: Run) -> Outcome:
    outcome = Outcome()
    deaths = run.times(DEATHS)
    with helios_shm.open(run.directory / "store") as engine:
        for number in range(run.times(SEARCHES_MAX)):
            if outcome.figures.get("deaths", 0) >= deaths or (run.mutant and outcome.violations):
                break
            where = f"seed {run.seed}, search {number}"
            try:
                _search(engine, run, outcome, number, where)
            except Exception as error:  # a search raises nothing, whoever dies
                outcome.violate(f"{where}: {type(error).__name__}: {error}")
    if run.mutant is None:
        outcome.reached("deaths", deaths)
    return outcome


def _search(engine: Engine, run: Run, outcome: Outcome, number: int, where: str) -> None:
    """One search, and what is left of it."""
    parallel = ("tree", "tree", "root", "leaf")[number % 4]
    # With three trees, or three rollouts a leaf, each of them needs as much to be sure.
    simulations = SIMULATIONS if parallel == "tree" else 3 * SIMULATIONS
    game = replace(GAME, loops=20_000)
    seed = run.chance("search", number).getrandbits(32)
    with Search(
        game, game.root(engine), workers=3, parallel=parallel, seed=seed, start_method="fork", c_uct=1.0
    ) as search:
        with killing(search, EVERY[parallel], seed) as killed:
            result = search.run(simulations)
        after = search.run(30)  # who died last is found
        outcome.count("searches")
        outcome.count("deaths", search.metrics.workers_lost)
        outcome.count("taken back", search.metrics.simulations_undone)
        outcome.count("finished", search.metrics.simulations_finished)
        where = f"{where}, {parallel}"
        done = result.num_simulations, after.num_simulations
        outcome.expect(done == (simulations, 30), f"{where}: {done} simulations, not {simulations} and 30")
        outcome.expect(
            search.metrics.workers_lost == len(set(killed)),
            f"{where}: {len(set(killed))} workers were killed, {search.metrics.workers_lost} deaths were seen",
        )
        right, _ = best_action(game)
        outcome.expect(result.action == right, f"{where}: it chose {result.action}, and {right} is best")
        try:
            assert_nobody_is_under_way(search)
            assert_sums(engine, search, game)
        except AssertionError as error:
            outcome.violate(f"{where}: {error}")
