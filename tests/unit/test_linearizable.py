"""The history checker of the proof, on histories made by hand: it accepts what can have happened, and nothing else."""

import random

import pytest

from tests.crash.linearizable import FOREVER, Change, Failure, Glimpse, Read, chain, check

# a -> b at 10..20, b -> c at 15..30: they overlap, and the order is the one that they name.
CHANGES = [Change("b", "c", 15, 30, "second"), Change("a", "b", 10, 20, "first")]


def test_changes_form_the_chain_that_they_name() -> None:
    ordered, wrong = chain("a", CHANGES)
    assert [change.new for change in ordered] == ["b", "c"]
    assert not wrong


def test_a_sequential_history_is_linearizable() -> None:
    reads = [Read("a", 0, 5), Read("b", 21, 22), Read("c", 31, 32), Read("c", 40, 41)]
    assert check("a", [Change("a", "b", 10, 20), Change("b", "c", 25, 30)], reads) == []


def test_changes_that_overlap_may_take_effect_in_either_order() -> None:
    assert check("a", CHANGES) == []
    assert check("a", [Change("a", "b", 15, 30), Change("b", "c", 10, 20)]) == []


def test_two_that_replaced_the_same_are_found() -> None:
    found = check("a", [Change("a", "b", 0, 10, "one"), Change("a", "c", 0, 10, "two")])
    assert "both replaced a" in found[0]


def test_a_change_of_what_never_was_there_is_found() -> None:
    assert "never was there" in check("a", [Change("x", "b", 0, 10)])[0]


def test_an_id_that_comes_back_is_found() -> None:
    changes = [Change("a", "b", 0, 10), Change("b", "a", 20, 30)]
    assert "been there before" in check("a", changes)[0]


def test_a_change_before_the_one_that_it_builds_on_is_found() -> None:
    assert check("a", [Change("a", "b", 20, 30), Change("b", "c", 10, 19)])
    assert not check("a", [Change("a", "b", 20, 30), Change("b", "c", 10, 20)])


def test_a_stale_read_is_found() -> None:
    changes = [Change("a", "b", 10, 20)]
    assert not check("a", changes, [Read("a", 19, 25)])
    assert check("a", changes, [Read("a", 21, 25)])


def test_a_read_of_what_is_not_there_yet_is_found() -> None:
    changes = [Change("a", "b", 10, 20)]
    assert not check("a", changes, [Read("b", 5, 10)])
    assert check("a", changes, [Read("b", 5, 9)])
    assert check("a", changes, [Read("x", 5, 9)])


def test_a_read_that_goes_back_is_found() -> None:
    """Both fit the change's interval; not in this order."""
    changes = [Change("a", "b", 10, 100)]
    assert check("a", changes, [Read("b", 20, 30), Read("a", 40, 50)])
    assert not check("a", changes, [Read("a", 20, 30), Read("b", 40, 50)])
    assert not check("a", changes, [Read("b", 20, 45), Read("a", 40, 50)])


def test_reads_carry_through_the_chain() -> None:
    """c was seen before 30, so b came before; who sees a after that is stale, though first's answer came late."""
    changes = [Change("a", "b", 10, 100, "first"), Change("b", "c", 15, 100, "second")]
    assert check("a", changes, [Read("c", 20, 30), Read("a", 31, 40)])


def test_a_failure_needs_something_else_to_have_been_there() -> None:
    changes = [Change("a", "b", 10, 20), Change("b", "c", 40, 50)]
    assert not check("a", changes, failures=[Failure("a", "a", 5, 12)])
    assert not check("a", changes, failures=[Failure("b", "b", 12, 30)])
    assert check("a", changes, failures=[Failure("b", "b", 21, 39)])
    assert check("a", changes, failures=[Failure("a", "a", 0, 9)])
    assert check("a", changes, failures=[Failure("c", "c", 51, 60)])
    assert not check("a", changes, failures=[Failure("x", "x", 21, 39)])
    assert check("a", changes, failures=[Failure("a", "b", 0, 39)])
    assert not check("a", changes, failures=[Failure("a", "b", 0, 40)])


def test_a_glimpse_needs_one_of_its_ids_to_have_been_there() -> None:
    changes = [
        Change("absent 0", "a", 10, 20),
        Change("a", "absent 1", 40, 50),
        Change("absent 1", "b", 60, 70),
    ]
    absent = ("absent 0", "absent 1")
    for called, answered, good in [
        (0, 5, True),
        (21, 39, False),
        (21, 40, True),
        (51, 55, True),
        (71, 80, False),
    ]:
        assert bool(check("absent 0", changes, glimpses=[Glimpse(absent, called, answered)])) is not good


def test_an_operation_without_an_answer_may_take_effect_late() -> None:
    changes = [Change("a", "b", 10, FOREVER, "killed")]
    assert not check("a", changes, [Read("a", 500, 600), Read("b", 700, 800)])
    assert check("a", changes, [Read("b", 5, 9)])


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_are_accepted_and_one_stale_read_is_not(seed: int) -> None:
    """Operations around instants that are drawn in order: linearizable by construction."""
    chance = random.Random(seed)
    instants = sorted(chance.sample(range(1000, 100_000), 200))
    changes, reads = [], []
    for i, at in enumerate(instants):
        changes.append(Change(i, i + 1, at - chance.randrange(900), at + chance.randrange(900)))
        seen_at = chance.randrange(at, (instants[i + 1] if i + 1 < len(instants) else at + 1) + 1)
        reads.append(Read(i + 1, seen_at - chance.randrange(900), seen_at + chance.randrange(900)))
    shuffled = chance.sample(changes, len(changes))
    assert check(0, shuffled, reads) == []
    late = changes[100].answered
    assert check(0, shuffled, [*reads, Read(100, late + 1, late + 5)])
