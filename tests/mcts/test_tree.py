import json
import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios_shm.mcts.table import CHOICE_ROW
from helios_shm.mcts.tree import TreeNode, grow
from tests.mcts.rows import PlainEdge, PlainRow, PlainRows, id_of, numbered, played, small, tree_of


def shapes(tree: TreeNode[str]) -> list[tuple[str | None, str | None, int]]:
    return [(node.action_name, node.repeats, node.visits) for node in tree]


def test_tree_shows_each_state_once_and_refers_to_it_elsewhere() -> None:
    tree = tree_of(small())
    assert shapes(tree) == [
        (None, None, 10),
        ("a0", None, 6),
        ("a0", None, 4),
        ("a1", None, 1),
        ("a1", None, 3),
        ("a0", "transposition", 2),
        ("a1", "cycle", 1),
    ]
    left = tree.children[0]
    again = tree.children[1].children[0]
    assert again.state == left.state and again.children == () and again.state_visits == left.state_visits == 7
    assert tree.find(left.state) is left


def test_node_says_what_the_rows_say() -> None:
    tree = tree_of(small())
    assert (tree.state, tree.action, tree.kind, tree.player) == (id_of("root").hex(), None, "choice", 0)
    assert (tree.visits, tree.in_flight, tree.value) == (10, 1, (0.5 + 3.0 - 1.5) / 10)
    assert (tree.prior, tree.omitted) == (1.0, 1)
    left, right = tree.children
    assert (left.value, left.prior, left.in_flight, left.rewards) == (0.5, 0.5, 1, (0.0, 0.0))
    assert (right.value, right.rewards) == (-0.5, (1.0, -1.0))
    end, dice = left.children
    assert (end.kind, end.player, end.returns, end.omitted) == ("terminal", None, (1.0, -1.0), 0)
    assert (dice.kind, dice.player, dice.omitted) == ("chance", -1, 2)


def test_principal_line_follows_the_most_visited_action() -> None:
    assert [node.action for node in tree_of(small()).principal_line()] == [None, "a0", "a0"]


def test_bounds_leave_out_what_was_visited_least_and_count_it() -> None:
    rows = small()
    assert [len(tree_of(rows, max_nodes=n)) for n in (1, 2, 3, 5)] == [1, 2, 3, 5]
    two = tree_of(rows, max_nodes=2)
    assert (two.omitted, two.children[0].action, two.children[0].omitted) == (2, "a0", 2)
    shallow = tree_of(rows, depth=1)
    assert [node.omitted for node in shallow] == [1, 2, 2]
    assert len(tree_of(rows, depth=0)) == 1
    assert shapes(tree_of(rows, min_visits=4)) == [(None, None, 10), ("a0", None, 6), ("a0", None, 4)]
    everything = tree_of(rows, min_visits=0)
    untried = everything.children[2]
    assert (untried.kind, untried.state, untried.value, untried.player) == ("unvisited", None, None, None)
    assert all(node.omitted == 0 for node in everything)


def test_action_in_flight_is_shown_before_anything_has_come_back() -> None:
    row = PlainRow(id_of("r"))
    tree = tree_of(PlainRows({row: [PlainEdge(in_flight=2, prior=1.0)]}))
    assert [(node.visits, node.in_flight, node.value) for node in tree] == [(0, 2, None), (0, 2, None)]


def test_root_that_no_search_has_met_is_a_tree_of_one() -> None:
    tree = grow(PlainRows({}), id_of("new"), lambda id, player: [])
    assert (len(tree), tree.kind, tree.visits, tree.value) == (1, "choice", 0, None)


@pytest.mark.parametrize("bounds", [{"max_nodes": 0}, {"min_visits": -1}, {"depth": -1}])
def test_bounds_that_leave_nothing_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bounds))} is a number from"):
        tree_of(small(), **bounds)


def test_environment_that_changes_its_actions_is_told_so() -> None:
    with pytest.raises(ValueError, match="has 3 actions in the search, and the environment now says 1"):
        grow(small(), id_of("root"), lambda id, player: ["only"])


def test_names_are_the_environment_s() -> None:
    rows = small()
    tree = grow(rows, id_of("root"), numbered(rows), name=lambda action: f"<{action}>")
    assert (tree.children[0].action, tree.children[0].action_name) == ("a0", "<a0>")


def chain(length: int) -> PlainRows:
    rows = {}
    for i in range(length):
        child = id_of(i + 1) if i + 1 < length else None
        rows[PlainRow(id_of(i), CHOICE_ROW, i % 2)] = [PlainEdge(length - i, 0, 1.0, 1.0, child)]
    return PlainRows(rows)


def test_tree_deeper_than_calls_may_nest() -> None:
    tree = tree_of(chain(5000), max_nodes=5000)
    assert len(tree) == 5000 and len(tree.principal_line()) == 5000
    again = pickle.loads(pickle.dumps(tree))
    assert again == tree and hash(again) == hash(tree) and again is not tree
    assert len(json.loads(tree.to_json())["nodes"]) == 5000
    assert "5000" in repr(tree)


def test_pickle_keeps_each_part_as_it_is() -> None:
    tree = tree_of(small())
    for node in tree:
        again = pickle.loads(pickle.dumps(node))
        assert again == node and list(map(repr, again)) == list(map(repr, node))
    assert tree != tree.children[0]


def test_json_has_the_documented_form() -> None:
    tree = tree_of(small())
    whole = json.loads(tree.to_json())
    assert (whole["format"], whole["version"]) == ("helios-shm search tree", 1)
    nodes = whole["nodes"]
    assert len(nodes) == len(tree)
    assert nodes[1] == {
        "state": id_of("left").hex(),
        "action": "a0",
        "kind": "choice",
        "player": 1,
        "visits": 6,
        "state_visits": 7,
        "in_flight": 1,
        "value": 0.5,
        "prior": 0.5,
        "rewards": [0.0, 0.0],
        "returns": [],
        "repeats": None,
        "same_as": None,
        "omitted": 0,
        "children": [2, 3],
    }
    assert [(node["repeats"], node["same_as"]) for node in nodes[5:]] == [("transposition", 1), ("cycle", 0)]


def test_json_has_no_number_that_json_does_not_know() -> None:
    row = PlainRow(id_of("r"), own_visits=1, own_value_sum=float("inf"))
    tree = tree_of(PlainRows({row: [PlainEdge(1, 0, float("nan"), float("inf"))]}))
    assert [(node["value"], node["prior"]) for node in json.loads(tree.to_json())["nodes"]] == [
        (None, 1.0),
        (None, None),
    ]


@given(
    st.integers(0, 1000),
    st.integers(5, 60),
    st.integers(1, 80),
    st.integers(0, 3),
    st.none() | st.integers(0, 5),
)
def test_laws_of_trees(seed: int, states: int, max_nodes: int, min_visits: int, depth: int | None) -> None:
    rows = played(80, seed=seed, branching=3, states=states)
    tree = tree_of(rows, max_nodes=max_nodes, min_visits=min_visits, depth=depth)
    nodes = list(tree)
    assert len(nodes) <= max_nodes
    full = [node.state for node in nodes if node.children]
    assert len(full) == len(set(full))
    for node in nodes:
        assert all(a.visits >= b.visits for a, b in pairwise(node.children))
        assert all(child.visits >= min_visits for child in node.children)
        assert node.repeats is None or (
            node.children == () and node.state in {tree.state, *full, *(n.state for n in nodes)}
        )
        if node.repeats is None and node.state is not None:
            assert len(node.children) + node.omitted == 3
    places = json.loads(tree.to_json())["nodes"]
    children = [child for node in places for child in node["children"]]
    assert sorted(children) == list(range(1, len(nodes)))
    assert all(child > index for index, node in enumerate(places) for child in node["children"])
    assert pickle.loads(pickle.dumps(tree)) == tree
