"""Searches that were stopped, or killed, and go on: the branch, real processes, real kills."""

import multiprocessing
import os
import pickle
import signal
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import helios_shm
from helios_shm import Branch, ConflictError, CorruptError, Engine, NotFoundError, Snapshot, Workspace
from helios_shm.mcts import Search
from helios_shm.mcts.save import Saved, decode_row, encode_row
from helios_shm.mcts.tree import TreeNode, grow
from tests.mcts.environments import TicTacToe, Walk

MODES = [(1, "tree"), (2, "tree"), (2, "root"), (2, "leaf")]
SPAWN = multiprocessing.get_context("spawn")
WAIT_SECONDS = 60.0


class Sized(TicTacToe):
    """A game whose rollouts are short, so that much is counted in little time."""

    num_players = 2

    def rollout(self, state: Snapshot, rng: Any) -> list[float]:
        value = rng.uniform(-1, 1)
        return [value, -value]


class Bush:
    """One player, three actions everywhere, and no two paths to a state."""

    num_players = 1

    def legal_actions(self, state: Snapshot) -> list[int]:
        return [0, 1, 2]

    def apply(self, state: Workspace, action: int) -> None:
        state["path"] = state.get("path", b"") + b"%d" % action

    def returns(self, state: Snapshot) -> list[float] | None:
        return [1.0] if len(state.get("path", b"")) == 15 else None

    def rollout(self, state: Snapshot, rng: Any) -> float:
        return rng.random()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One store for many searches, each on a branch of its own."""
    with helios_shm.open(tmp_path_factory.mktemp("resumes") / "store") as opened:
        yield opened


@pytest.fixture
def branch(engine: Engine) -> Branch:
    return engine.branch(uuid.uuid4().hex)


def counts_are_consistent(saved: Saved, root: bytes | None = None) -> None:
    """What goes into a state comes out of it, or ended there: of a search that was saved while nobody searched."""
    into: dict[bytes, int] = defaultdict(int)
    for row in saved:
        for edge in saved.edges(row):
            assert edge.visits == 0 or edge.child is not None
            if edge.child is not None:
                into[edge.child] += edge.visits
    for row in saved:
        if row.id != saved.header.root:
            assert row.visits == into[row.id]
    found = saved.row(saved.header.root)
    assert found is not None and found.visits == saved.header.num_simulations


def tree_of(saved: Saved, env: TicTacToe) -> TreeNode[int]:
    def actions(id: bytes, player: int) -> list[int]:
        return env.legal_actions(saved.branch.engine.snapshot(id.hex()))

    return grow(saved, saved.header.root, actions)


@pytest.mark.parametrize(("workers", "parallel"), MODES)
def test_search_goes_on_where_it_was(engine: Engine, branch: Branch, workers: int, parallel: Any) -> None:
    env = Sized()
    with Search(env, engine.empty, workers=workers, parallel=parallel, seed=1, save_to=branch) as search:
        first = search.run(300)
        before = search.tree()
    saved = Saved.load(branch)
    counts_are_consistent(saved)
    assert tree_of(saved, env) == before and before.visits == saved.header.num_simulations == 300
    with Search.resume(env, branch, workers=workers) as again:
        assert again.root == engine.empty
        assert again.tree() == before
        second = again.run(200)
        assert sum(second.visit_counts.values()) == 500 and second.num_simulations == 200
        assert all(second.visit_counts[action] >= count for action, count in first.visit_counts.items())
    counts_are_consistent(Saved.load(branch))
    assert Saved.load(branch).header.num_simulations == 500


def test_resumed_search_has_its_options_and_draws_anew(engine: Engine, branch: Branch) -> None:
    options: dict[str, Any] = {"c_uct": 0.5, "widening": (2.0, 0.5), "save_every": 60.0, "depth_max": 5}
    with Search(Sized(), engine.empty, seed=3, save_to=branch, **options) as search:
        search.run(50)
    with Search.resume(Sized(), branch) as again:
        assert {name: getattr(again._options, name) for name in options} == options | {"widening": [2.0, 0.5]}
        assert again._seed != 3
        again.run(10)
    assert Saved.load(branch).header.options["c_uct"] == 0.5


def test_rewards_and_values_come_back(engine: Engine, branch: Branch) -> None:
    workspace = engine.empty.fork()
    workspace["at"] = b"3"
    with Search(Walk(), workspace.commit().snapshot, discount=0.9, seed=1, save_to=branch) as search:
        result = search.run(400)
    with Search.resume(Walk(), branch) as again:
        assert again.run(1).value == pytest.approx(result.value, rel=0.1)
        assert again.tree().children[0].rewards == (-1.0,)


def test_advanced_search_drops_what_is_behind_it(engine: Engine, branch: Branch) -> None:
    with Search(Sized(), engine.empty, seed=1, save_to=branch) as search:
        search.run(200)
        rows = len(list(Saved.load(branch)))
        root = search.advance(4)
        search.save()
        saved = Saved.load(branch)
        assert saved.root == root and len(list(saved)) < rows
        assert set(saved.state.keys("state/")) == {f"state/{row.id.hex()}" for row in saved}
    with Search.resume(Sized(), branch) as again:
        assert again.root == root
        again.run(50)


def test_trials_are_told_after_the_search_was_resumed(engine: Engine, branch: Branch) -> None:
    env = Sized()
    with Search(env, engine.empty, seed=1, save_to=branch) as search:
        (first,) = search.ask()
        search.tell(first.id, 0.5)
        trials = search.ask(5)
        search.tell(trials[0].id, 0.25)
        assert search.pending == trials[1:]
    assert len(Saved.load(branch).trials) == 4
    with Search.resume(env, branch) as again:
        assert again.pending == trials[1:]
        assert again.tree().in_flight == 4
        for trial in reversed(trials):
            again.tell(trial.id, 1.0)
            again.tell(first.id, 9.0)
        assert again.pending == []
        tree = again.tree()
        assert (tree.in_flight, tree.visits) == (0, 6)
        assert {trial.id for trial in again.ask(3)}.isdisjoint(trial.id for trial in [first, *trials])
        with pytest.raises(NotFoundError):
            again.tell(b"x" * 16, 1.0)


def test_trial_of_an_earlier_root_comes_back(engine: Engine, branch: Branch) -> None:
    env = Sized()
    with Search(env, engine.empty, seed=1, save_to=branch) as search:
        search.run(100)
        trials = search.ask(3)
        search.advance(int(next(iter(trials[-1].state))))
    with Search.resume(env, branch) as again:
        assert again.pending == trials
        for trial in trials:
            again.tell(trial.id, 0.0)
        assert again.tree().in_flight == 0


def test_table_too_small_gets_the_states_most_visited(engine: Engine, branch: Branch) -> None:
    env = Bush()
    with Search(env, engine.empty, seed=1, save_to=branch, depth_max=20) as search:
        search.run(4200)
        before = search.tree(max_nodes=5)
    with Search.resume(env, branch, table_bytes=1 << 20) as again:
        assert len(list(Saved.load(branch))) > again.metrics.rows
        assert again.tree(max_nodes=5) == before
        again.run(300)
        assert again.tree().visits == 4500


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_search_that_drops_states_as_it_goes_saves_what_it_has(
    engine: Engine, branch: Branch, workers: int
) -> None:
    small: dict[str, Any] = {"depth_max": 20, "table_bytes": 1 << 20, "save_every": 0.0}
    with Search(Bush(), engine.empty, workers=workers, seed=1, save_to=branch, **small) as search:
        search.run(9000)
        assert search.metrics.evictions > 0
        rows = search.metrics.rows
    saved = Saved.load(branch)
    ids = {row.id for row in saved}
    assert len(ids) == rows and set(saved.state.keys("state/")) == {f"state/{id.hex()}" for id in ids}
    root = saved.row(saved.header.root)
    assert root is not None and root.visits == saved.header.num_simulations == 9000
    with Search.resume(Bush(), branch, workers=workers) as again:
        again.run(500)
        assert again.tree().visits == 9500


def test_counts_that_no_table_holds_keep_their_means(engine: Engine, branch: Branch) -> None:
    """Root parallelism saves sums, which may be more than one table counts to."""
    with Search(Sized(), engine.empty, seed=1, save_to=branch) as search:
        search.run(100)
        before = search.tree()
    path = f"row/{engine.empty.id}"
    row, edges, players = decode_row(bytes.fromhex(engine.empty.id), branch.head[path])
    more = [replace(edge, visits=edge.visits << 26, value_sum=edge.value_sum * 2**26) for edge in edges]
    with branch.transaction() as workspace:
        workspace[path] = encode_row(row, more, players)
    with Search.resume(Sized(), branch) as again:
        after = again.tree()
        assert {node.visits for node in after.children} == {1 << 27}
        values = {node.action: pytest.approx(node.value) for node in before.children}
        assert {node.action: node.value for node in after.children} == values
        assert again.run(20).num_simulations == 20


def test_what_cannot_be_gone_on_with_says_why(engine: Engine, branch: Branch) -> None:
    with pytest.raises(NotFoundError, match="no search was saved"):
        Search.resume(Sized(), branch)
    with Search(Sized(), engine.empty, seed=1) as unsaved:
        unsaved.run(5)
        with pytest.raises(ValueError, match="without save_to"):
            unsaved.save()
    with Search(Sized(), engine.empty, seed=1, save_to=branch) as search:
        search.run(50)
        search.ask()

    class Other(Sized):
        def legal_actions(self, state: Snapshot) -> list[int]:
            return super().legal_actions(state)[:2]

    with pytest.raises(ValueError, match="had 9 actions when the search was saved, and now has 2"):
        Search.resume(Other(), branch)

    class Three(Sized):
        num_players = 3

    with pytest.raises(ValueError, match="a search of 2 players was saved"):
        Search.resume(Three(), branch)
    (trial,) = Saved.load(branch).state.keys("trial/")
    good = branch.head
    for damage in (b"\7\0\0\0", (99).to_bytes(4, "little"), b""):
        with branch.transaction() as workspace:
            workspace[trial] = (
                good[trial][:-4] + damage if damage else good[trial][:-36] + b"\1" * 32 + good[trial][-4:]
            )
        with pytest.raises(CorruptError, match=r"does not lead to state|ends after"):
            Search.resume(Sized(), branch)
    with branch.transaction() as workspace:
        workspace["search"] = good["search"].replace(b'"c_uct": 1.4', b'"c_uct": -1.4')
    with pytest.raises(CorruptError, match="cannot have been made so: c_uct is"):
        Search.resume(Sized(), branch)


@pytest.mark.parametrize("workers", [1, 2])
def test_search_that_an_error_has_ended_is_saved_as_far_as_it_was(
    engine: Engine, branch: Branch, workers: int
) -> None:
    class Tired(Sized):
        def rollout(self, state: Snapshot, rng: Any) -> list[float]:
            if len(state) > 2:
                raise LookupError("no more")
            return super().rollout(state, rng)

    with (
        pytest.raises(LookupError, match="no more"),
        Search(Tired(), engine.empty, workers=workers, seed=1, save_to=branch) as search,
    ):
        search.run(1000)
    counts_are_consistent(Saved.load(branch))
    with Search.resume(Sized(), branch) as again:
        assert again.run(50).num_simulations == 50


def test_search_whose_branch_is_another_s_ends_all_the_same(engine: Engine, branch: Branch) -> None:
    with Search(Sized(), engine.empty, seed=1, save_to=branch) as theirs:
        mine = Search(Sized(), engine.empty, workers=2, seed=2, save_to=branch)
        mine.run(20)
        theirs.run(30)
        with pytest.raises(ConflictError, match="another search saves to it"):
            mine.run(20)
        with pytest.raises(ConflictError):
            mine.close()
        mine.close()
        assert multiprocessing.active_children() == []
    assert Saved.load(branch).header.num_simulations == 30


# --- killed ---


def search_until_killed(path: str, workers: int, parallel: Any, told: Any) -> None:
    """A search that saves all the time, in a process group of its own, and says how much it has done."""
    os.setpgid(0, 0)
    engine = helios_shm.open(path)
    branch = engine.branch("search")
    search = Search(
        Sized(), engine.empty, workers=workers, parallel=parallel, seed=1, save_to=branch, save_every=0.0
    )
    asked = search.ask(3)
    search.save()
    told.send(pickle.dumps([trial.id for trial in asked]))
    while True:
        search.run(200)
        told.send(branch.last_commit.sequence)


@pytest.mark.parametrize(
    ("workers", "parallel", "in_group"),
    [
        pytest.param(workers, parallel, in_group, marks=[] if fast else [pytest.mark.slow])
        for workers, parallel in MODES
        for in_group in (True, False)
        for fast in [(workers, parallel, in_group) in ((1, "tree", False), (2, "tree", True))]
    ],
)
def test_search_that_was_killed_goes_on(
    store_path: Path, workers: int, parallel: Any, in_group: bool
) -> None:
    heard, told = SPAWN.Pipe(duplex=False)
    with helios_shm.open(store_path) as engine:
        child = SPAWN.Process(target=search_until_killed, args=(str(store_path), workers, parallel, told))
        child.start()
        told.close()
        assert heard.poll(WAIT_SECONDS)
        asked = pickle.loads(heard.recv())
        assert heard.poll(WAIT_SECONDS)
        heard.recv()
        assert child.pid is not None
        # In the middle of a run, and of a save as often as not.
        (os.killpg if in_group else os.kill)(child.pid, signal.SIGKILL)
        child.join(WAIT_SECONDS)
        branch = engine.branch("search")
        saved = Saved.load(branch)
        done = saved.row(saved.header.root)
        assert done is not None and done.visits == saved.header.num_simulations >= 200
        assert sorted(saved.trials) == sorted(asked)
        with Search.resume(Sized(), branch, workers=workers) as again:
            assert again.tree().visits == done.visits
            assert [trial.id for trial in again.pending] == sorted(asked)
            for id in asked:
                again.tell(id, 0.5)
            result = again.run(200)
            tree = again.tree()
            assert tree.visits == done.visits + len(asked) + 200 and tree.in_flight == 0
            assert sum(result.visit_counts.values()) + 1 == tree.visits, "the first trial was the root itself"
        assert Saved.load(branch).header.num_simulations == tree.visits


def resume_until_killed(path: str, workers: int, told: Any) -> None:
    """Goes on with the search of a branch, or begins it; says the save that it goes on from."""
    os.setpgid(0, 0)
    engine = helios_shm.open(path)
    branch = engine.branch("search")
    if branch.head == engine.empty:
        search = Search(Sized(), engine.empty, workers=workers, seed=1, save_to=branch, save_every=0.0)
    else:
        search = Search.resume(Sized(), branch, workers=workers)
    told.send(search.tree(max_nodes=1).visits)
    while True:
        search.run(50)
        search.tell(search.ask()[0].id, 0.0)
        told.send(search.save() is not None)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_search_that_is_killed_again_and_again_only_grows(store_path: Path, workers: int) -> None:
    rng, reached = Random(workers), 0
    with helios_shm.open(store_path) as engine:
        branch = engine.branch("search")
        for _ in range(8):
            heard, told = SPAWN.Pipe(duplex=False)
            child = SPAWN.Process(target=resume_until_killed, args=(str(store_path), workers, told))
            child.start()
            told.close()
            # Killed after so many runs, and wherever it is when we have heard of the last.
            for number in range(rng.randint(2, 8)):
                assert heard.poll(WAIT_SECONDS)
                said = heard.recv()
                assert number or said == reached, "it goes on from the last save"
            assert child.pid is not None
            os.killpg(child.pid, signal.SIGKILL)
            child.join(WAIT_SECONDS)
            saved = Saved.load(branch)
            root = saved.row(saved.header.root)
            assert root is not None and root.visits == saved.header.num_simulations > reached
            reached = root.visits
            # Of a save while others search: each edge leads to a state that is there, or came a moment later.
            assert set(saved.state.keys("state/")) == {f"state/{row.id.hex()}" for row in saved}
            heard.close()
        with Search.resume(Sized(), branch, workers=workers) as again:
            again.run(100)
            assert again.tree().visits == reached + 100
        report = engine.check()
        assert report.ok, report.damage
