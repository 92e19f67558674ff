import json
import struct
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import helios_shm
from helios_shm import Branch, ConflictError, CorruptError, Engine, FormatError, NotFoundError, Snapshot
from helios_shm.mcts import Search, save
from helios_shm.mcts.rows import CountedEdge, CountedRow, TableRows
from helios_shm.mcts.save import Changes, Header, Saved, SavedTrial, Saver, decode_row, encode_row
from helios_shm.mcts.table import CHANCE_ROW, CHOICE_ROW, TERMINAL_ROW
from helios_shm.mcts.tree import grow
from tests.mcts.environments import Bet, TicTacToe, Walk
from tests.mcts.rows import PlainEdge, PlainRow, PlainRows, id_of, numbered, packed, tree_of

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
ids = st.binary(min_size=32, max_size=32)


@st.composite
def rows_with_edges(draw: st.DrawFn) -> tuple[CountedRow, tuple[CountedEdge, ...], int]:
    """Whatever a table may say of a state."""
    players = draw(st.integers(1, 4))
    vectors = st.tuples(*[finite] * players)
    kind = draw(st.sampled_from([CHOICE_ROW, CHANCE_ROW, TERMINAL_ROW]))
    player = -1 if kind == CHANCE_ROW else draw(st.integers(0, players - 1))
    edges = []
    if kind != TERMINAL_ROW:
        even = save._even(actions := draw(st.integers(1, 6)))
        priors = st.just(even) if draw(st.booleans()) else st.floats(0, 1, width=32)
        for _ in range(actions):
            child = draw(st.none() | ids)
            visits = draw(counts) if child is not None else 0
            rewards = draw(vectors) if child is not None else ()
            edges.append(
                CountedEdge(
                    visits,
                    0,
                    draw(finite) if visits else 0.0,
                    draw(priors),
                    child,
                    rewards if any(rewards) else (),
                )
            )
    own = draw(counts)
    row = CountedRow(
        draw(ids),
        kind,
        player,
        own + sum(edge.visits for edge in edges),
        0,
        own,
        draw(finite),
        draw(vectors) if kind == TERMINAL_ROW else (),
    )
    return row, tuple(edges), players


@given(rows_with_edges())
def test_row_comes_back_as_it_was(given_row: tuple[CountedRow, tuple[CountedEdge, ...], int]) -> None:
    row, edges, players = given_row
    data = encode_row(row, edges, players)
    assert decode_row(row.id, data) == given_row
    assert save.visits_of(data) == row.visits


def test_row_has_the_documented_bytes() -> None:
    child = bytes(range(32))
    row = CountedRow(id_of("r"), CHOICE_ROW, 1, 9, 0, 2, 0.5, ())
    edges = [
        CountedEdge(0, 0, 0.0, 0.25, None, ()),
        CountedEdge(7, 0, -1.5, 0.75, child, (1.0, -1.0)),
    ]
    assert encode_row(row, edges, 2).hex(" ", -8) == " ".join(
        (
            "01" "01" "0100" "02" "01" "0000",  # version, kind, player; players, flags
            "02000000" "01000000",  # actions, edges
            "0200000000000000",  # own visits
            struct.pack("<d", 0.5).hex(),
            struct.pack("<ff", 0.25, 0.75).hex(),  # priors
            "01000000" "03000000",  # edge 1: a child and rewards follow
            "0700000000000000",
            struct.pack("<d", -1.5).hex(),
            *(child[i : i + 8].hex() for i in range(0, 32, 8)),
            struct.pack("<d", 1.0).hex(),
            struct.pack("<d", -1.0).hex(),
        )
    )  # fmt: skip
    even = [CountedEdge(0, 0, 0.0, 0.5, None, ())] * 2
    assert len(encode_row(row, even, 2)) == 32, "priors that are all alike are not written"


@given(rows_with_edges(), st.data())
def test_bytes_that_are_no_row_are_refused(
    given_row: tuple[CountedRow, tuple[CountedEdge, ...], int], data: st.DataObject
) -> None:
    row, edges, players = given_row
    good = encode_row(row, edges, players)
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bad) - 1))
        bad[at] = data.draw(st.integers(0, 255))
    bad = bad[: data.draw(st.integers(0, len(bad)))] if data.draw(st.booleans()) else bad
    try:
        again = decode_row(row.id, bytes(bad))
    except (CorruptError, FormatError):
        return
    # What is accepted is what the encoder would have written, or says the same in more bytes.
    assert decode_row(row.id, encode_row(*again)) == again


@pytest.mark.parametrize(
    ("at", "form", "value", "error", "says"),
    [
        (0, "B", 2, FormatError, "is of version 2"),
        (1, "B", 0, CorruptError, "no row is of kind 0"),
        (1, "B", 3, CorruptError, "2 actions"),
        (2, "h", 2, CorruptError, "player 2 moves"),
        (2, "h", -1, CorruptError, "player -1 moves"),
        (4, "B", 0, CorruptError, "0 players"),
        (4, "B", 17, CorruptError, "17 players"),
        (5, "B", 2, CorruptError, "flags"),
        (6, "H", 1, CorruptError, "flags"),
        (8, "I", 0, CorruptError, "0 actions"),
        (8, "I", 2**32 - 1, CorruptError, "4294967295 actions"),
        (8, "I", 2**20, CorruptError, "it ends after"),
        (8, "I", 2**20 + 1, CorruptError, "1048577 actions"),
        (12, "I", 3, CorruptError, "3 edges of 2 actions"),
        (12, "I", 0, CorruptError, "bytes too many"),
        (24, "d", float("nan"), CorruptError, "no number"),
        (32, "f", 2.0, CorruptError, "no probability"),
        (32, "f", float("nan"), CorruptError, "no probability"),
        (40, "I", 2, CorruptError, "edge 2 behind edge -1 of 2"),
        (44, "I", 4, CorruptError, "flags"),
        (44, "I", 0, CorruptError, "too many"),
        (56, "d", float("inf"), CorruptError, "no number"),
        (96, "d", float("inf"), CorruptError, "is none"),
    ],
)
def test_each_wrong_field_is_named(at: int, form: str, value: float, error: type, says: str) -> None:
    row = CountedRow(id_of("r"), CHOICE_ROW, 1, 9, 0, 2, 0.5, ())
    edges = [CountedEdge(0, 0, 0.0, 0.25, None, ()), CountedEdge(7, 0, -1.5, 0.75, id_of("c"), (1.0, -1.0))]
    data = bytearray(encode_row(row, edges, 2))
    struct.pack_into(f"<{form}", data, at, value)
    with pytest.raises(error, match=says):
        decode_row(row.id, bytes(data))


def test_few_bytes_that_claim_many_actions_cost_little() -> None:
    row = CountedRow(id_of("r"), CHOICE_ROW, 0, 0, 0, 0, 0.0, ())
    data = bytearray(encode_row(row, [CountedEdge(0, 0, 0.0, 1.0, None, ())], 1))
    struct.pack_into("<I", data, 8, 2**20)
    _, edges, _ = decode_row(row.id, bytes(data))
    assert len(edges) == 2**20 and len(set(map(id, edges))) == 1


def test_sum_that_has_overflowed_is_saved_as_the_greatest_number() -> None:
    row = CountedRow(id_of("r"), CHOICE_ROW, 0, 1, 0, 1, float("-inf"), ())
    again = decode_row(row.id, encode_row(row, [CountedEdge(1, 0, float("inf"), 1.0, None, ())], 1))
    assert again[0].own_value_sum == -1.7e308 and again[1][0].value_sum == 1.7e308


@given(
    st.builds(SavedTrial, ids, ids, st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple)),
    st.binary(max_size=80),
)
def test_trial_comes_back_and_other_bytes_are_refused(trial: SavedTrial, noise: bytes) -> None:
    data = save.encode_trial(trial)
    assert save.decode_trial(b"id", data) == trial
    for bad in (data[:-1], data + b"\0", b"\2" + data[1:], data[:1] + b"\1" + data[2:], noise):
        if bad != data:
            with pytest.raises((CorruptError, FormatError)):
                save.decode_trial(b"id", bad)


HEADER = Header("Game", 2, id_of("root"), 7, {"c_puct": 1.25, "widening": None}, b"12345678", 3, 40)


def test_header_comes_back_as_it_was() -> None:
    assert save.decode_header(save.encode_header(HEADER)) == HEADER


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": "other"}, FormatError),
        ({"version": 2}, FormatError),
        ({"root": "xyz"}, CorruptError),
        ({"root": None}, CorruptError),
        ({"num_players": 0}, CorruptError),
        ({"num_players": True}, CorruptError),
        ({"options": []}, CorruptError),
        ({"nonce": "ab"}, CorruptError),
        ({"next_serial": -1}, CorruptError),
        ({"num_simulations": 1.5}, CorruptError),
        ({"seed": "1"}, CorruptError),
    ],
)
def test_header_of_another_kind_is_refused(change: dict[str, object], error: type) -> None:
    said = json.loads(save.encode_header(HEADER)) | change
    with pytest.raises(error):
        save.decode_header(json.dumps(said).encode())


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"[" * 100_000])
def test_header_that_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError, match="no JSON object"):
        save.decode_header(data)


# --- of a table ---


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One store for many searches, each on a branch of its own."""
    with helios_shm.open(tmp_path_factory.mktemp("saves") / "store") as opened:
        yield opened


def started(engine: Engine, env: Any, at: bytes = b"", **options: Any) -> Search[Any]:
    workspace = engine.empty.fork()
    if at:
        workspace["at"] = at
    return Search(env, workspace.commit().snapshot, seed=1, **options)


@pytest.mark.parametrize(
    ("env", "options"),
    [
        (TicTacToe(), {}),
        (TicTacToe(), {"workers": 2, "parallel": "root"}),
        (Walk(), {"at": b"3", "discount": 0.5}),
        (Bet(), {"dirichlet_alpha": 0.3, "selection": "puct"}),
    ],
)
def test_core_packs_rows_as_python_does(shared: Engine, env: Any, options: dict[str, Any]) -> None:
    with started(shared, env, **options) as search:
        search.run(100)
        if not options:
            trials = search.ask(4)
            search.tell(trials[0].id, 0.5, prior_logits=range(9))
        changes = Changes(search._forest.tables)
        rows, whole = changes.look()
        assert whole and dict(rows) == dict(packed(TableRows(search._forest.tables)))
        changes.saved()
        rows, whole = changes.look()
        assert not whole and list(rows) == []


def test_changes_of_a_table_are_what_was_visited_since(shared: Engine) -> None:
    with started(shared, TicTacToe()) as search:
        search.run(100)
        changes = Changes(search._forest.tables)
        list(changes.look()[0])
        changes.saved()
        search.run(1)
        changed = dict(changes.look()[0])
        assert 2 <= len(changed) <= 10 and bytes.fromhex(search.root.id) in changed
        # What was looked at and not saved comes again, with all.
        rows, whole = changes.look()
        assert whole and changed.items() <= dict(rows).items()
        changes.saved()
        search.advance(4)
        rows, whole = changes.look()
        assert whole and bytes.fromhex(search.root.id) in dict(rows)


def test_row_larger_than_the_room_that_is_kept_for_it(shared: Engine) -> None:
    class Wide(TicTacToe):
        num_players = 2

        def legal_actions(self, state: Snapshot) -> range:
            return range(100_000)

        def prior_logits(self, state: Snapshot, actions: range) -> range:
            return actions

    with started(shared, Wide()) as search:
        ((_, data),) = Changes(search._forest.tables).look()[0]
        assert len(data) == 32 + 4 * 100_000 and len(decode_row(b"", data)[1]) == 100_000


# --- on a branch ---


class Game:
    """States in a store, and what a search could have counted of them: to be saved."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.states: dict[int, Snapshot] = {}

    def state(self, number: int) -> Snapshot:
        if number not in self.states:
            workspace = self.engine.empty.fork()
            workspace["number"] = str(number).encode()
            self.states[number] = workspace.commit().snapshot
        return self.states[number]

    def id(self, number: int) -> bytes:
        return bytes.fromhex(self.state(number).id)

    def rows(self, visits: dict[int, int]) -> PlainRows:
        """State 0 with an action to each of the others; state n with two that nobody tried."""
        edges = [
            PlainEdge(count, 0, count / 2, 0.25, self.id(number))
            for number, count in visits.items()
            if number
        ]
        rows = {PlainRow(self.id(0), own_visits=visits[0]): [*edges, PlainEdge(prior=0.25)]}
        for number, count in visits.items():
            if number:
                rows[PlainRow(self.id(number), player=1, own_visits=count)] = [
                    PlainEdge(prior=0.5),
                    PlainEdge(prior=0.5),
                ]
        return PlainRows(rows)

    def header(self, **options: object) -> Header:
        return Header("Game", 2, self.id(0), 1, options)

    def save(self, saver: Saver, visits: dict[int, int], **more: object) -> helios_shm.Commit | None:
        return saver.save(self.header(), packed(self.rows(visits)), self.state(0), **more)


@pytest.fixture
def game(shared: Engine) -> Game:
    return Game(shared)


@pytest.fixture
def branch(shared: Engine) -> Branch:
    return shared.branch(f"search {uuid.uuid4().hex}")


def edited(branch: Branch) -> Iterator[int]:
    """How many keys each commit of a branch has changed, oldest first."""
    return reversed([commit.metrics.changed_keys for commit in branch.log()])


def test_search_comes_back_from_its_branch(game: Game, branch: Branch) -> None:
    rows = game.rows({0: 1, 1: 5, 2: 3})
    commit = game.save(Saver(branch), {0: 1, 1: 5, 2: 3})
    saved = Saved.load(branch)
    assert commit is not None and commit.message == "search: 9 simulations"
    assert saved.header == replace(game.header(), num_simulations=9)
    assert saved.root == game.state(0) and saved.num_players == 2 and saved.trials == {}
    assert {row.id for row in saved} == {game.id(n) for n in range(3)}
    assert saved.row(id_of("never met")) is None
    found, wanted = (grow(each, game.id(0), numbered(each)) for each in (saved, rows))
    assert found == wanted


def test_only_what_has_changed_is_put(game: Game, branch: Branch) -> None:
    saver = Saver(branch)
    game.save(saver, {0: 1, 1: 5, 2: 3})
    game.save(saver, {0: 1, 1: 6, 2: 3})
    assert game.save(saver, {0: 1, 1: 6, 2: 3}) is None
    game.save(Saver.after(Saved.load(branch)), {0: 1, 1: 6, 2: 4})
    # search, root, and of each of three states its row and itself; then search, and two rows.
    assert list(edited(branch)) == [8, 3, 3]
    assert [row.visits for row in map(Saved.load(branch).row, map(game.id, range(3)))] == [11, 6, 4]


def test_changes_alone_leave_the_others_as_they_were(game: Game, branch: Branch) -> None:
    saver = Saver(branch)
    game.save(saver, {0: 1, 1: 5, 2: 3})
    rows = dict(packed(game.rows({0: 1, 1: 6, 2: 3})))
    some = [(id, rows[id]) for id in (game.id(0), game.id(1))]
    commit = saver.save(game.header(), some, game.state(0), whole=False)
    assert commit is not None and commit.message == "search: 10 simulations"
    assert dict(Saved.load(branch).packed()) == rows
    assert saver.save(game.header(), [], game.state(0), whole=False) is None


def test_first_save_that_was_interrupted_takes_the_place_of_another_the_next_time(
    game: Game, branch: Branch, monkeypatch: Any
) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    game.save(Saver(branch), {0: 1, 1: 5})
    saver = Saver(branch)
    with monkeypatch.context() as patch:
        patch.setattr(helios_shm.Workspace, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            game.save(saver, {0: 1, 2: 6})
    game.save(saver, {0: 1, 2: 6})
    assert {row.id for row in Saved.load(branch)} == {game.id(0), game.id(2)}


def test_save_that_was_interrupted_and_happened_is_known(
    game: Game, branch: Branch, monkeypatch: Any
) -> None:
    saver = Saver(branch)
    game.save(saver, {0: 1, 1: 5})
    commit = helios_shm.Workspace.commit

    def interrupted(*args: Any, **options: Any) -> None:
        commit(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(helios_shm.Workspace, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            game.save(saver, {0: 1, 2: 6})
    game.save(saver, {0: 1, 2: 6, 3: 1})
    saved = Saved.load(branch)
    assert {row.id for row in saved} == {game.id(n) for n in (0, 2, 3)} and saved.header.num_simulations == 8


def test_what_the_search_has_dropped_goes_and_its_states_can_be_collected(game: Game, branch: Branch) -> None:
    saver = Saver(branch)
    game.save(saver, {0: 1, 1: 5, 2: 3})
    game.save(saver, {0: 1, 2: 3})
    assert {row.id for row in Saved.load(branch)} == {game.id(0), game.id(2)}
    assert set(branch.head) == {
        "search",
        "root",
        *(f"{p}{game.id(n).hex()}" for p in ("row/", "state/") for n in (0, 2)),
    }


def test_search_takes_the_place_of_another_and_leaves_other_keys(game: Game, branch: Branch) -> None:
    with branch.transaction() as workspace:
        workspace["notes"] = b"mine"
    game.save(Saver(branch), {0: 1, 1: 5, 2: 3}, trials={b"t" * 16: SavedTrial(game.id(0), game.id(1), (0,))})
    assert list(Saved.load(branch).trials) == [b"t" * 16]
    before = branch.head
    game.save(Saver(branch), {0: 2, 3: 1})
    saved = Saved.load(branch)
    assert {row.id for row in saved} == {game.id(0), game.id(3)} and saved.trials == {}
    assert branch.head["notes"] == b"mine"
    assert Saved(branch, before).header.num_simulations == 9, "the earlier one is in the branch's history"


def test_two_searches_on_one_branch_are_told_apart(game: Game, branch: Branch) -> None:
    mine, theirs = Saver(branch), Saver(branch)
    game.save(mine, {0: 1, 1: 1})
    game.save(theirs, {0: 1, 1: 2})
    head = branch.head
    with pytest.raises(ConflictError, match="another search saves to it"):
        game.save(mine, {0: 1, 1: 3})
    assert branch.head == head
    branch.delete()
    with pytest.raises(ConflictError, match="or it was moved"):
        game.save(theirs, {0: 1, 1: 3})


def test_trials_come_and_go(game: Game, branch: Branch) -> None:
    saver, trial = Saver(branch), SavedTrial(game.id(0), game.id(1), (0,))
    game.save(saver, {0: 1, 1: 1}, trials={b"a" * 16: trial, b"b" * 16: trial})
    assert Saved.load(branch).trials == {b"a" * 16: trial, b"b" * 16: trial}
    assert game.save(saver, {0: 1, 1: 1}, trials={b"b" * 16: trial}) is not None
    assert Saved.load(branch).trials == {b"b" * 16: trial}
    assert game.save(saver, {0: 1, 1: 1}, trials={b"b" * 16: trial}) is None


def test_collection_keeps_the_states_of_a_saved_search(engine: Engine) -> None:
    game, branch = Game(engine), engine.branch("search")
    saver = Saver(branch)
    game.save(saver, {0: 1, 1: 5, 2: 3})
    game.save(saver, {0: 1, 1: 6})
    gone = game.id(2).hex()
    game.states.clear()
    game.engine.sync()
    game.engine.gc(history=1, grace=timedelta(0))
    kept = Saved.load(branch)
    assert [game.engine.snapshot(row.id.hex())["number"] for row in kept]
    assert game.engine.check().damage == ()
    with pytest.raises(NotFoundError):
        len(game.engine.snapshot(gone))


def test_branch_without_a_search_says_so(branch: Branch) -> None:
    with pytest.raises(NotFoundError, match="no search was saved to branch 'search"):
        Saved.load(branch)


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("search", b"{}", FormatError),
        ("search", b"x", CorruptError),
        ("root", b"no state", CorruptError),
        ("trial/zz", b"", CorruptError),
        ("trial/" + "00" * 16, b"", CorruptError),
        ("row/zz", b"", CorruptError),
        ("row/" + "zz" * 32, b"", CorruptError),
        ("row/" + "00" * 32, b"", CorruptError),
        (
            "row/" + "00" * 32,
            encode_row(CountedRow(b"", TERMINAL_ROW, 0, 0, 0, 0, 0.0, (0.0,)), (), 1),
            CorruptError,
        ),
    ],
)
def test_damaged_search_is_refused(game: Game, branch: Branch, path: str, value: bytes, error: type) -> None:
    game.save(Saver(branch), {0: 1, 1: 5})
    with branch.transaction() as workspace:
        workspace[path] = value
    with pytest.raises(error):
        list(Saved.load(branch))


def test_root_that_is_not_the_one_named_is_refused(game: Game, branch: Branch) -> None:
    game.save(Saver(branch), {0: 1, 1: 5})
    with branch.transaction() as workspace:
        workspace.put("root", game.state(1))
    with pytest.raises(CorruptError, match="says that it is"):
        Saved.load(branch)
    with branch.transaction() as workspace:
        del workspace["root"]
    with pytest.raises(CorruptError, match="has no root"):
        Saved.load(branch)


def test_state_that_is_no_state_is_not_saved(game: Game, branch: Branch) -> None:
    rows = PlainRows({PlainRow(id_of("nowhere")): [PlainEdge(prior=1.0)]})
    with pytest.raises(NotFoundError):
        Saver(branch).save(game.header(), packed(rows), game.state(0))
    assert len(branch.head) == 0
    assert tree_of(rows).visits == 0
