"""The frame of the benchmarks: rounds, ratios, targets, and what a report says of them. No speed is judged."""

from pathlib import Path

import pytest

from bench.harness import (
    FLOOR,
    ROUNDS_MIN,
    Beside,
    Contender,
    Items,
    Row,
    Samples,
    Skipped,
    Spread,
    Target,
    compare,
    measure,
    ratio,
    report,
)


def row(*targets: Target, floor: Beside | None = None, skipped: tuple[Skipped, ...] = ()) -> Row:
    """Ours takes 100 ns, `slow` 400, `fast` 50."""
    ours = Spread.single(100.0, "ns")
    peers = (
        Beside.figures("slow", ours, Spread.single(400.0, "ns")),
        Beside.figures("fast", ours, Spread.single(50.0, "ns")),
    )
    return Row(operation="x", n=1, ours=ours, peers=peers, floor=floor, targets=targets, skipped=skipped)


@pytest.mark.parametrize(
    ("relation", "limit", "figure", "met"),
    [("<=", 0.7, 0.7, True), ("<=", 0.7, 0.71, False), (">=", 4.0, 4.0, True), (">=", 4.0, 3.9, False)],
)
def test_a_target_is_judged_on_its_side(relation: str, limit: float, figure: float, met: bool) -> None:
    assert Target(relation, limit).met(figure) is met  # type: ignore[arg-type]


def test_a_target_is_judged_against_whom_it_names() -> None:
    assert row(Target("<=", 0.25, "slow")).verdict == "met"
    assert row(Target("<=", 1.99, "fast")).verdict == "missed"
    assert row(Target("<=", 0.25, "slow"), Target("<=", 1.99, "fast")).verdict == "missed"
    assert row().verdict == "shown"


def test_a_target_that_names_several_is_judged_against_the_worst() -> None:
    judged = row(Target("<=", 1.0, "*")).judgements[0]
    assert (judged.against, judged.figure, judged.verdict) == ("fast", 2.0, "missed")
    judged = row(Target(">=", 1.0, "*")).judgements[0]
    assert (judged.against, judged.figure, judged.verdict) == ("slow", 0.25, "missed")


def test_a_target_without_a_name_judges_our_median() -> None:
    assert row(Target("<=", 100.0)).verdict == "met"
    assert row(Target("<=", 99.0)).verdict == "missed"


def test_a_target_against_the_floor() -> None:
    floor = Beside.figures("memcpy", Spread.single(100.0, "ns"), Spread.single(80.0, "ns"))
    assert row(Target("<=", 1.25, FLOOR), floor=floor).verdict == "met"
    assert row(Target("<=", 1.2, FLOOR), floor=floor).verdict == "missed"


def test_a_target_against_nobody_is_an_error() -> None:
    with pytest.raises(ValueError, match="nobody is called 'medium'"):
        row(Target("<=", 1.0, "medium"))
    with pytest.raises(ValueError, match="nobody is called 'floor'"):
        row(Target("<=", 1.0, FLOOR))


def test_a_target_against_a_missing_peer_is_skipped_with_its_reason() -> None:
    one = row(Target("<=", 1.0, "redis"), skipped=(Skipped("redis", "redis is not installed"),))
    assert one.verdict == "skipped"
    assert "    skipped: redis (redis is not installed)" in report(one).splitlines()


def test_a_missed_target_is_said() -> None:
    text = report(row(Target("<=", 0.2, "slow"), Target("<=", 3.0, "fast"), Target("<=", 99.0)))
    assert "    missed: 0.25 x slow (target <= 0.20 x)" in text
    assert "    missed: 100 ns (target <= 99 ns)" in text
    assert text.count("missed: ") == 2


def test_the_ratio_is_the_median_over_rounds_in_which_both_ran() -> None:
    ours = Samples("ours", 1, ((10.0,), (30.0,), (80.0,)))
    other = Samples("other", 1, ((10.0,), (), (20.0,)))
    assert ratio(ours, other) == pytest.approx((1.0 + 4.0) / 2)


def test_contenders_take_turns_and_some_sit_rounds_out() -> None:
    ran: list[tuple[str, int]] = []

    def contender(name: str, **options: int) -> Contender:
        def run(items: Items) -> None:
            ran.append((name, len(items)))

        return Contender(name, run, lambda count: [0] * count, **options)

    often, seldom = measure(
        [contender("a"), contender("b", every=2, calls=1, batch=3)], rounds=3, calls=2, batch=5, warm_up=False
    )
    assert ran == [("b", 3), *[("a", 5)] * 2, *[("a", 5)] * 2, ("b", 3), *[("a", 5)] * 2]
    assert (often.n, seldom.n) == (30, 6)
    assert [len(figures) for figures in seldom.rounds] == [1, 0, 1]
    assert compare("x", often, [seldom]).peers[0].name == "b"


def test_a_measurement_without_time_counts_a_few_rounds() -> None:
    contenders = [Contender("a", len, lambda count: [0] * count)]
    (figures,) = measure(contenders, rounds=100, calls=1, batch=1, seconds=0.0)
    assert len(figures.rounds) == ROUNDS_MIN


def test_percentiles() -> None:
    spread = Spread.of([float(number) for number in range(1, 101)], "ns")
    assert (spread.p50, spread.p95, spread.p99) == (50.5, 96.0, 100.0)


def test_the_harness_imports_nothing_of_the_product() -> None:
    text = (Path(__file__).parents[2] / "bench" / "harness.py").read_text()
    assert "import helios_shm" not in text
