"""Tree search over snapshots: as strong as another search, faster with two processes, and what the store costs.

    search_strength    games of connect four against OpenSpiel's own MCTS, with as many simulations a move
    search_speedup     simulations a second of two processes on one tree, beside one process
    search_store       fork + commit of an expansion, in time and as a share of it, beside copies of the environment
    search_taxi        1000 states of Taxi-v4 as forks and as deep copies: time, memory
    search_handover    a state given to another process, as an id or a Snapshot, beside its pickle
    search_clones      where a clone within one process wins, and by how much

Packages whose games are searched are those of the extras; rows of one that is missing say so.
"""

import copy
import itertools
import json
import math
import os
import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any, Literal

import psutil

from helios_shm import Engine, Snapshot, Workspace
from helios_shm.mcts import Search
from helios_shm.mcts.environment import Environment

from .harness import (
    Beside,
    Contender,
    Items,
    Row,
    Setting,
    Skipped,
    Spread,
    Target,
    Unit,
    compare,
    measure,
    show,
)
from .states import store
from .workers import Job, Worker

ALONE = "one process alone, the same run"
CONFIDENCE = 1.96  # standard errors: 95 of 100 intervals hold what they are about
CORES_FOR_ELEVEN = 16
TABLE_BYTES = 64 << 20
SEEDS_APART = 7_777_777
States = Literal["fields", "history"]


def cores() -> int:
    return len(os.sched_getaffinity(0))


# ---- strength ----


def wilson(score: float, count: int) -> tuple[float, float]:
    """The interval in which the true mean of ``count`` games lies (Wilson 1927), in the unit of ``score``: 0 .. 1."""
    square = CONFIDENCE**2 / count
    middle = (score + square / 2) / (1 + square)
    half = CONFIDENCE / (1 + square) * math.sqrt(score * (1 - score) / count + square / (4 * count))
    return middle - half, middle + half


def least_equal(count: int) -> float:
    """The least score of so many games whose interval has 1/2 in it."""
    return next(score / 1000 for score in range(501) if wilson(score / 1000, count)[1] >= 0.5)


class Match:
    """Games of two searches, each at so many simulations a move, from scratch at every move."""

    def __init__(
        self, engine: Engine, name: str, simulations: int, c: float, states: States, solve: bool
    ) -> None:
        import pyspiel

        from helios_shm.mcts.games.open_spiel import OpenSpiel

        self.pyspiel, self.engine, self.env = pyspiel, engine, OpenSpiel(name, states=states)
        self.game: Any = self.env.game
        self.simulations, self.c, self.solve = simulations, c, solve
        self.seconds = [0.0, 0.0]  # ours, theirs
        self.moves = [0, 0]

    def ours(self, position: Any, seed: int) -> int:
        root = self.env.root(self.engine, position)
        with Search(
            self.env, root, selection="uct", c_uct=self.c, seed=seed, table_bytes=TABLE_BYTES
        ) as search:
            return search.run(self.simulations).action

    def theirs(self, position: Any, seed: int) -> int:
        pyspiel = self.pyspiel
        rollouts = pyspiel.RandomRolloutEvaluator(1, seed + SEEDS_APART)  # not the numbers that the bot draws
        bot = pyspiel.MCTSBot(self.game, rollouts, self.c, self.simulations, 100, self.solve, seed, False)
        return int(bot.step(position))

    def play(self, number: int) -> float:
        """One game; ours begins in every second. Returns 1, 0.5 or 0 for ours."""
        position, side = self.game.new_initial_state(), number % 2
        while not position.is_terminal():
            who = 0 if position.current_player() == side else 1
            choose = self.theirs if who else self.ours
            began = time.perf_counter()
            action = choose(position, 1000 * number + position.move_number())
            self.seconds[who] += time.perf_counter() - began
            self.moves[who] += 1
            position.apply_action(action)
        return float(1 + position.returns()[side]) / 2

    def move_ns(self, who: int) -> float:
        return 1e9 * self.seconds[who] / self.moves[who]


def search_strength(setting: Setting) -> Iterator[Row]:
    """Equal means that the interval of our score has 50 % in it."""
    with store(setting) as engine:
        ways: tuple[tuple[States, bool], ...] = (("history", False), ("fields", False), ("fields", True))
        for states, solve in ways:
            yield from optional(
                partial(strength_rows, engine, setting, states, solve), f"connect four, {states}"
            )


def strength_rows(engine: Engine, setting: Setting, states: States, solve: bool) -> Iterator[Row]:
    games, simulations, c = setting.scale(100 if solve else 200, 2), setting.scale(100, 20), 0.7
    match = Match(engine, "connect_four", simulations, c, states, solve)
    scores = [match.play(number) for number in range(games)]
    score = statistics.fmean(scores)
    low, high = wilson(score, games)
    won, lost, least = scores.count(1.0), scores.count(0.0), 100 * least_equal(games)
    theirs = "OpenSpiel's MCTSBot (C++)" + (", which also proves positions (MCTS-Solver)" if solve else "")
    alike = states == "history"
    targets = () if solve else (Target(">=", least), Target("<=", 100 - least))[: 1 + alike]
    yield Row(
        operation=f"score in connect four, {simulations} simulations a move, "
        + ("a tree as theirs" if alike else "move orders meet in one state")
        + ", a solver there" * solve,
        n=games,
        ours=Spread.single(100 * score, "%"),
        peers=(
            Beside.figures(theirs, Spread.single(100 * score, "%"), Spread.single(100 * (1 - score), "%")),
        ),
        targets=targets,
        note=f"c = {c:g}; {won} won, {games - won - lost} drawn, {lost} lost, half of them begun; 95 % interval "
        f"(Wilson) {100 * low:.1f} .. {100 * high:.1f} %, equal if it has 50 % in it; a move takes "
        f"{show(match.move_ns(0), 'ns')}, theirs {show(match.move_ns(1), 'ns')}",
    )


# ---- two processes ----


class Loops:
    """A tree that never ends, eight actions a state, and rollouts that are so much work of the processor."""

    num_players = 1

    def __init__(self, loops: int) -> None:
        self.loops = loops

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        return range(8)

    def apply(self, state: Workspace, action: int) -> None:
        state["number"] = b"%d" % (int(state["number"]) * 8 + action + 1)

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        return None

    def rollout(self, state: Snapshot, rng: Random) -> float:
        spin(self.loops)
        return rng.random()


def spin(loops: int) -> None:
    for _ in range(loops):
        pass


def loops_of(microseconds: float) -> int:
    """So many turns of an empty loop take so long, when nothing is in the way."""
    best = min(_timed(lambda: spin(100_000)) for _ in range(20))
    return round(100_000 * microseconds * 1e-6 / best)


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def spinner(loops: int) -> Job:
    """A child; a command is how many rollouts' work to do."""
    return lambda count: spin(loops * count)


def speedup_row(engine: Engine, microseconds: int, workers: int, setting: Setting) -> Row:
    """Sides take turns: one process, all of them on one tree, and all of them with their loops and nothing else."""
    loops, rounds = loops_of(microseconds), setting.scale(5, 1)
    count = setting.scale(max(200, 300_000 // (microseconds + 60)), 50)
    workspace = engine.empty.fork()
    workspace["number"] = b"0"
    root, env = workspace.commit().snapshot, Loops(loops)
    one, many, bare = [], [], []
    with (
        Search(env, root, seed=1) as alone,
        Search(env, root, seed=1, workers=workers) as tree,
        Worker(spinner, loops) as first,
    ):
        crew = [first]
        try:
            crew += [Worker(spinner, loops) for _ in range(workers - 1)]
            tree.run(10)
            for _ in range(rounds):
                one.append(count / _timed(lambda: alone.run(count)))
                many.append(workers * count / _timed(lambda: tree.run(workers * count)))
                bare.append(workers * count / _timed(lambda: _together(crew, count)))
        finally:
            for each in crew[1:]:
                each.__exit__(None, None, None)
    gain = statistics.median(a / b for a, b in zip(many, one, strict=True))
    floor = statistics.median(a / b for a, b in zip(many, bare, strict=True))
    return Row(
        operation=f"simulations on one tree by {workers} processes, rollouts of {microseconds} us",
        n=rounds * workers * count,
        ours=Spread.of(many, "/s"),
        peers=(Beside(ALONE, Spread.of(one, "/s"), gain),),
        floor=Beside(
            f"the loops of the rollouts alone, by {workers} processes", Spread.of(bare, "/s"), floor
        ),
        targets=_gain_asked(microseconds, workers),
        note=f"{cores()} cores; all sides in each of {rounds} rounds; load of the machine {os.getloadavg()[0]:.1f}; "
        f"the store took {100 * tree.metrics.store_share:.1f} % of the time",
    )


def _together(crew: list[Worker], count: int) -> None:
    for each in crew:
        each.ask(count)
    for each in crew:
        each.answer()


def _gain_asked(microseconds: int, workers: int) -> tuple[Target, ...]:
    if microseconds < 100:
        return ()
    if workers == 2 <= cores():
        return (Target(">=", 1.8, ALONE),)
    return (Target(">=", 11.0, ALONE),) if workers == 16 else ()


def search_speedup(setting: Setting) -> Iterator[Row]:
    crews = [2, 16] if cores() >= CORES_FOR_ELEVEN else [2]
    with store(setting) as engine:
        for workers, microseconds in itertools.product(crews, (20, 100, 1000)):
            yield speedup_row(engine, microseconds, workers, setting)


# ---- what the store costs ----


class Plan:
    """A plan of 200 tasks: who does each. In one process it would be a dict of dicts, and be copied."""

    num_players = 1
    TASKS, PEOPLE, CHANGED = 200, 6, 2

    def start(self, engine: Engine) -> Snapshot:
        workspace = engine.empty.fork()
        for number in range(self.TASKS):
            workspace[f"task/{number:03}"] = b'{"who": "nobody", "days": 3, "after": [1, 2]}'
        workspace["next"] = b"0"
        return workspace.commit().snapshot

    def copied(self) -> dict[str, Any]:
        """The same state as Python objects."""
        return {str(n): {"who": "nobody", "days": 3, "after": [1, 2]} for n in range(self.TASKS)}

    def legal_actions(self, state: Snapshot) -> Sequence[int]:
        return range(self.PEOPLE)

    def apply(self, state: Workspace, action: int) -> None:
        number = int(state["next"])
        state[f"task/{number % self.TASKS:03}"] = b'{"who": "%d", "days": 3, "after": [1, 2]}' % action
        state["next"] = b"%d" % (number + 1)

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        return None

    def rollout(self, state: Snapshot, rng: Random) -> float:
        tasks = [json.loads(value) for value in state.values("task/")]
        loads = dict[str, int]()
        for task in tasks:
            loads[task["who"]] = loads.get(task["who"], 0) + task["days"]
        return -max(loads.values()) / self.TASKS


def taxi() -> tuple[Any, Callable[[Engine], Snapshot], object]:
    import gymnasium

    from helios_shm.mcts.games.gymnasium import Gymnasium

    env, real = Gymnasium("Taxi-v4", rollout_steps=20), gymnasium.make("Taxi-v4")
    real.reset(seed=1)
    return env, lambda engine: env.root(engine, seed=1), real


def plan() -> tuple[Any, Callable[[Engine], Snapshot], object]:
    env = Plan()
    return env, env.start, env.copied()


STORE_CASES: dict[str, Callable[[], tuple[Any, Callable[[Engine], Snapshot], object]]] = {
    "Taxi-v4": taxi,
    "a plan of 200 tasks": plan,
}


def each_expansion(search: Search[Any]) -> tuple[list[float], list[float]]:
    """Have the search note what the store takes of each expansion, in ns: of time, and of this thread's processor time,
    which leaves out whoever else runs on the core meanwhile. The clock's own cost is in it."""
    search.run(1)
    assert search._made is not None
    simulator: Any = search._made[0].simulators[0]
    expand, step, tally = simulator._expanded, simulator.rules.step, simulator.tally
    times: list[float] = []
    processor: list[float] = []
    stepped = 0

    def noted_step(*arguments: Any) -> Any:
        nonlocal stepped
        before = time.thread_time_ns()
        rewards = step(*arguments)
        stepped = time.thread_time_ns() - before
        return rewards

    def noted(*arguments: Any) -> Any:
        before, began = tally.store_ns, time.thread_time_ns()
        found = expand(*arguments)
        processor.append(time.thread_time_ns() - began - stepped)
        times.append(tally.store_ns - before)
        return found

    simulator._expanded, simulator.rules.step = noted, noted_step
    return times, processor


def store_rows(engine: Engine, name: str, setting: Setting) -> Iterator[Row]:
    """Searches of one process, and of what each of them takes. deepcopy in between."""
    env, start, held = STORE_CASES[name]()
    root, searches, count = start(engine), setting.scale(15, 1), setting.scale(300, 20)
    costs: list[float] = []
    processor: list[float] = []
    shares, copies = [], []
    for seed in range(searches):
        with Search(env, root, seed=seed, table_bytes=TABLE_BYTES) as search:
            times, of_processor = each_expansion(search)
            shares.append(100 * search.run(count).store_share)
            costs, processor = costs + times, processor + of_processor
        copies += [1e9 * _timed(lambda: copy.deepcopy(held)) for _ in range(3)]
    peer, load = "copy.deepcopy of the environment", f"load of the machine {os.getloadavg()[0]:.1f}"
    copied = statistics.median(copies)
    yield Row(
        operation=f"fork + commit of an expansion, {name}",
        n=len(costs),
        ours=Spread.of(costs, "ns"),
        peers=(Beside.figures(peer, Spread.of(costs, "ns"), Spread.of(copies, "ns")),),
        targets=(Target("<=", 15_000),),
        note=f"mean {show(statistics.fmean(costs), 'ns')}; of this thread's processor time "
        f"{show(statistics.median(processor), 'ns')}, the rest is others' on the same core; {load}",
    )
    yield Row(
        operation=f"share of a search that the store takes, {name}",
        n=searches * count,
        ours=Spread.of(shares, "%"),
        targets=(Target("<=", 10),) if copied >= 1e5 else (),
        note=f"{searches} searches of {count} simulations; a copy takes {show(copied, 'ns')}: "
        + ("less than 10 % is asked" if copied >= 1e5 else "below 100 us, nothing is asked")
        + f"; {load}",
    )


def search_store(setting: Setting) -> Iterator[Row]:
    with store(setting) as engine:
        for name in STORE_CASES:
            yield from optional(partial(store_rows, engine, name, setting), f"the store's part, {name}")


def optional(rows: Callable[[], Iterator[Row]], name: str) -> Iterator[Row]:
    """The rows, or one that says which package is missing."""
    try:
        yield from rows()
    except ImportError as error:
        yield Row(operation=name, n=1, ours=Spread.single(0, "ns"), skipped=(Skipped(name, str(error)),))


# ---- forks and deep copies ----


def search_taxi(setting: Setting) -> Iterator[Row]:
    with store(setting) as engine:
        yield from optional(lambda: taxi_rows(engine, setting), "Taxi-v4")


def taxi_rows(engine: Engine, setting: Setting) -> Iterator[Row]:
    env, start, real = taxi()
    root, actions = start(engine), itertools.cycle(range(6))

    def forks(items: Items) -> None:
        for _ in items:
            root.fork()

    def stepped(items: Items) -> None:
        for action in items:
            workspace = root.fork()
            env.step(workspace, action)
            workspace.commit()

    def copies(items: Items) -> None:
        for _ in items:
            copy.deepcopy(real)

    def copies_stepped(items: Items) -> None:
        for action in items:
            copy.deepcopy(real).step(action)  # type: ignore[attr-defined]

    def given(count: int) -> Items:
        return list(itertools.islice(actions, count))

    rounds, batch = setting.scale(5, 5), setting.scale(200, 5)
    few = setting.scale(3, 1)
    sides = [
        Contender("fork", forks, given),
        Contender("deepcopy", copies, given, batch=few),
        Contender("fork, step, commit", stepped, given),
        Contender("deepcopy, step", copies_stepped, given, batch=few),
    ]
    fork, deep, step, deep_step = measure(sides, rounds=rounds, calls=1, batch=batch, warm_up=False)
    thousand = f"1000 take {show(1000 * fork.spread.p50, 'ns')} and {show(1000 * deep.spread.p50, 'ns')}"
    yield compare(
        "a state of Taxi-v4 more, to change", fork, [deep], Target("<=", 0.01, deep.name), note=thousand
    )
    yield compare(
        "a step of Taxi-v4 from a state that stays", step, [deep_step], Target("<=", 0.01, deep_step.name)
    )
    yield taxi_bytes(engine, root, env, real, setting)


def taxi_bytes(engine: Engine, root: Snapshot, env: Any, real: object, setting: Setting) -> Row:
    """Memory of this process and bytes put into the store, for states that are held."""
    count, copied = setting.scale(1000, 20), setting.scale(100, 3)
    process = psutil.Process()

    def held(make: Callable[[], list[object]], number: int) -> float:
        before = process.memory_full_info().uss
        objects = make()
        return max(0, process.memory_full_info().uss - before) / len(objects) * number

    new, chance = 0, Random(1)
    visited: list[Snapshot] = []

    def states() -> list[object]:
        nonlocal new
        found: list[object] = []
        state = root
        for _ in range(count):
            workspace = state.fork()
            env.step(workspace, chance.randrange(6))
            commit = workspace.commit()
            state = root if env.returns(commit.snapshot) else commit.snapshot
            new += commit.metrics.new_bytes
            found.append(commit.snapshot)
            visited.append(commit.snapshot)
        return found

    theirs = held(lambda: [copy.deepcopy(real) for _ in range(copied)], count)
    ours = held(states, count) + new
    kinds = len({state.id for state in visited})
    peer = "deep copies"
    return Row(
        operation=f"memory of {count:,} states of Taxi-v4, a step apart",
        n=count,
        ours=Spread.single(ours, "bytes"),
        peers=(Beside.figures(peer, Spread.single(ours, "bytes"), Spread.single(theirs, "bytes")),),
        targets=(Target("<=", 0.1, peer),),
        note=f"this process's own memory and {show(new, 'bytes')} new in the store: "
        f"{kinds} of the states are different; of the copies, {copied} were made",
    )


# ---- from process to process ----


def reader(engine: Engine) -> Job:
    """A child that reads one value of each state that it is given, however it comes."""

    def job(state: Any) -> int:
        if isinstance(state, bytes) and len(state) == 32:
            state = engine.snapshot(state.hex())
        elif isinstance(state, bytes):
            state = pickle.loads(state)
        return len(state["key/0000"])

    return job


def search_handover(setting: Setting) -> Iterator[Row]:
    with store(setting) as engine, Worker(reader, engine) as child:
        for keys, size in ((10, 48), (1000, 1024)):
            yield handover_row(engine, child, keys, size, setting)


def handover_row(engine: Engine, child: Worker, keys: int, size: int, setting: Setting) -> Row:
    """Every state is another one: the child has never read it."""
    chance = Random(keys)
    plain = {f"key/{number:04}": chance.randbytes(size) for number in range(keys)}
    workspace = engine.empty.fork()
    workspace.update(plain)

    def asked(items: Items) -> None:
        for state in items:
            child.ask(state)
            child.answer()

    def states(form: Callable[[Snapshot], object]) -> Callable[[int], Items]:
        def made(count: int) -> Items:
            found = []
            for _ in range(count):
                workspace["key/0000"] = chance.randbytes(size)
                snapshot = workspace.commit().snapshot
                held.append(snapshot)
                found.append(form(snapshot))
            return found

        return made

    def dicts(count: int) -> Items:
        return [{**plain, "key/0000": chance.randbytes(size)} for _ in range(count)]

    held: list[Snapshot] = []
    sides = [
        Contender("32 bytes of id", asked, states(lambda snapshot: bytes.fromhex(snapshot.id))),
        Contender("a Snapshot, pickled", asked, states(lambda snapshot: snapshot)),
        Contender("the state, pickled", asked, dicts),
        Contender(
            "a byte there and back", lambda items: asked([{"key/0000": b""}] * len(items)), lambda n: [0] * n
        ),
    ]
    rounds, batch = setting.scale(15, 5), setting.scale(20, 2)
    ours, pickled, plainly, byte = measure(sides, rounds=rounds, calls=1, batch=batch)
    return compare(
        f"a state of {keys:,} x {size} B to another process, and a value read there",
        ours,
        [pickled, plainly],
        floor=byte,
        note=f"a pickled Snapshot is {len(pickle.dumps(held[-1]))} B, the state {len(pickle.dumps(plain)):,} B",
    )


# ---- where a clone wins ----


def search_clones(setting: Setting) -> Iterator[Row]:
    with store(setting) as engine:
        for name, rows in (("connect four", connect_four_rows), ("chess", chess_rows)):
            yield from optional(partial(rows, engine, setting), f"a move of {name}")


def moves_row(
    name: str,
    env: Environment[Any],
    root: Snapshot,
    cloned: Callable[[], object],
    peer: str,
    setting: Setting,
) -> Row:
    """A move on a state that stays: fork, apply, commit, beside a clone and the same move."""
    actions = list(env.legal_actions(root))

    def forked(items: Items) -> None:
        for action in items:
            workspace = root.fork()
            env.apply(workspace, action)
            workspace.commit()

    def clones(items: Items) -> None:
        for _ in items:
            cloned()

    turns = itertools.cycle(actions)
    ours, theirs = measure(
        [
            Contender("fork, apply, commit", forked, lambda n: list(itertools.islice(turns, n))),
            Contender(peer, clones, lambda n: [0] * n),
        ],
        rounds=setting.scale(15, 5),
        calls=1,
        batch=setting.scale(200, 5),
    )
    return compare(
        f"a move of {name} from a state that stays",
        ours,
        [theirs],
        note="the clone wins where states need not be shared, named, kept or found again",
    )


def connect_four_rows(engine: Engine, setting: Setting) -> Iterator[Row]:
    from helios_shm.mcts.games.open_spiel import OpenSpiel

    env = OpenSpiel("connect_four")
    position = env.game.new_initial_state()
    yield moves_row(
        "connect four", env, env.root(engine), lambda: position.child(3), "pyspiel's State.child", setting
    )
    yield pure_row(engine, env, setting)


def chess_rows(engine: Engine, setting: Setting) -> Iterator[Row]:
    import chess

    from helios_shm.mcts.games.chess import Chess

    env, board = Chess(), chess.Board()
    move = next(iter(board.legal_moves))

    def cloned() -> None:
        board.copy(stack=False).push(move)

    yield moves_row("chess", env, env.root(engine), cloned, "chess.Board.copy and push", setting)


def pure_row(engine: Engine, env: Any, setting: Setting) -> Row:
    """Simulations a second of a search in C++ that shares nothing, and of ours."""
    match, rounds = (
        Match(engine, "connect_four", setting.scale(2000, 50), 2.0, "fields", False),
        setting.scale(5, 1),
    )
    position = match.game.new_initial_state()
    ours, theirs = [], []
    for turn in range(rounds):
        ours.append(match.simulations / _timed(partial(match.ours, position, turn)))
        theirs.append(match.simulations / _timed(partial(match.theirs, position, turn)))
    unit: Unit = "/s"
    return Row(
        operation="simulations of connect four by one process",
        n=rounds * match.simulations,
        ours=Spread.of(ours, unit),
        peers=(Beside.figures("OpenSpiel's MCTSBot (C++)", Spread.of(ours, unit), Spread.of(theirs, unit)),),
        note="rollouts and expansions in Python here; theirs are C++ throughout, for games that OpenSpiel has",
    )
