"""The comparison of instruction counts with their record: what passes, what fails, and what cannot be recorded."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.tree import ROOT
from tests.instructions import __main__ as program
from tests.instructions import count, record
from tests.instructions.record import RECORDED, Figure, Record, RecordError
from tests.instructions.worker import LONG, OPERATIONS, TURNS

HERE = {"python": "CPython 3.11", "compiler": "GCC 12"}
ELSEWHERE = {"python": "CPython 3.12", "compiler": "GCC 12"}
REASON = "as it was when this was written"
COUNTED = dict.fromkeys(OPERATIONS, 1000.0)


def recorded(**figures: float) -> Record:
    """A record of all operations, 1000 instructions each but for those that are given."""
    return Record(dict(HERE), {name: Figure(figures.get(name, 1000.0), REASON) for name in OPERATIONS})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The program, with a record of its own and counts that are given; nothing is counted."""
    monkeypatch.setattr(program, "RECORDED", tmp_path / "recorded.toml")
    monkeypatch.setattr(count, "install", lambda: None)

    def run(*words: str, before: Record, environment: dict[str, str] = HERE, **counted: float) -> int:
        (tmp_path / "recorded.toml").write_text(record.render(before))
        monkeypatch.setattr(count, "environment", lambda: environment)
        monkeypatch.setattr(count, "count", lambda: COUNTED | counted)
        return program.main(words)

    return run


# --- what is judged ---


@pytest.mark.parametrize(
    ("before", "good"),
    [(1000 / 1.04, True), (1000 / 1.06, False), (1000 / 0.96, True), (1000 / 0.94, False)],
    ids=["grown 4 %", "grown 6 %", "fallen 4 %", "fallen 6 %"],
)
def test_more_than_five_per_cent_fails_in_either_direction(
    run: Callable[..., int], before: float, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--strict", before=recorded(first_read=before)) == (0 if good else 1)
    assert ("first_read: " in capsys.readouterr().out) != good


def test_every_operation_is_judged() -> None:
    for name in OPERATIONS:
        (complaint,) = record.complaints(recorded(), COUNTED | {name: 1060.0})
        assert complaint.startswith(name)


def test_another_environment_fails_where_judgement_was_asked_for(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--strict", before=recorded(), environment=ELSEWHERE) == 2
    assert "python: recorded with CPython 3.11, now CPython 3.12" in capsys.readouterr().err


def test_another_environment_is_reported_and_not_judged_otherwise(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(before=recorded(), environment=ELSEWHERE, items=2000.0) == 0
    said = capsys.readouterr().out
    assert "not judged" in said and "+100.0%" in said


def test_part_of_the_environment_that_only_one_side_names_is_a_difference() -> None:
    assert len(record.differences(recorded(), {**HERE, "libc": "glibc 2.36"})) == 1
    assert len(record.differences(recorded(), {"python": "CPython 3.11"})) == 1


# --- what a record must be ---


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f'reason = "{REASON}"', "", "`instructions` and `reason`"),
        (REASON, "", "a reason is a sentence"),
        (REASON, "faster", "a reason is a sentence"),
        ("[items]", "[no_such_operation]", "operations that there are not: no_such_operation"),
        ("[items]\ninstructions = 1000.0\n" + f'reason = "{REASON}"\n', "", "no figures of items"),
        ("[environment]", "[surroundings]", "in which environment"),
        ("instructions = 1000.0", "instructions = 0", "a number above 0"),
        ("instructions = 1000.0", "instructions = nan", "a number above 0"),
        ("[environment]", "[environment", "cannot be read"),
    ],
)
def test_record_that_lacks_something_is_refused(old: str, new: str, said: str) -> None:
    text = record.render(recorded())
    assert record.parse(text, OPERATIONS) == recorded()
    with pytest.raises(RecordError, match=said):
        record.parse(text.replace(old, new, 1), OPERATIONS)


def test_program_ends_with_the_record_that_it_cannot_use(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = Record(dict(HERE), {**recorded().figures, "no_such_operation": Figure(1.0, REASON)})
    assert run(before=unknown) == 2
    assert "no_such_operation" in capsys.readouterr().err


# --- recording ---


def test_recording_takes_what_fell_and_what_grew_too_much_and_lets_small_growths_add_up() -> None:
    counted = COUNTED | {"first_read": 1060.0, "items": 1040.0, "repeated_read": 970.0, "commit_1_kib": 995.0}
    after = record.renewed(recorded(), HERE, counted, "values are checked twice").figures
    assert after["first_read"] == Figure(1060.0, "values are checked twice")
    assert after["repeated_read"] == Figure(970.0, "values are checked twice")
    assert after["items"] == after["commit_1_kib"] == Figure(1000.0, REASON)


def test_recording_in_another_environment_takes_everything() -> None:
    after = record.renewed(recorded(), ELSEWHERE, COUNTED | {"items": 1040.0}, "another Python")
    assert after.environment == ELSEWHERE
    assert after.figures["items"].instructions == 1040.0
    assert {figure.reason for figure in after.figures.values()} == {"another Python"}


def test_recording_needs_a_reason(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--record", " ", before=recorded(), items=2000.0) == 2
    assert "a reason is a sentence" in capsys.readouterr().err
    assert record.parse((tmp_path / "recorded.toml").read_text()) == recorded()


def test_what_was_recorded_passes(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--record", 'keys are "checked" twice', before=recorded(), items=2000.0) == 0
    after = record.parse((tmp_path / "recorded.toml").read_text(), OPERATIONS)
    assert after.figures["items"] == Figure(2000.0, 'keys are "checked" twice')
    assert run("--strict", before=after, items=2000.0) == 0


# --- counting ---


def test_figure_is_the_difference_of_the_medians() -> None:
    assert count.figures(_totals()) == dict.fromkeys(OPERATIONS, 50.0)


def test_section_that_was_not_counted_is_no_figure() -> None:
    totals = _totals()
    for name in list(totals):
        with pytest.raises(count.NotCounted, match=name.split()[0]):
            count.figures({**totals, name: 0})


def test_more_operations_that_take_fewer_instructions_are_no_figure() -> None:
    with pytest.raises(count.NotCounted, match="took fewer"):
        count.figures({name: 1000 - total for name, total in _totals().items()})


def test_totals_are_read_by_the_name_of_their_section(tmp_path: Path) -> None:
    (tmp_path / "callgrind.out.1").write_text(
        "version: 1\ndesc: Trigger: Client Request: items 3 0\n\nfn=(1) main\n16 400\n\ntotals: 400\n"
    )
    (tmp_path / "callgrind.out.2").write_text("desc: Trigger: Program termination\ntotals: 7\n")
    assert count.totals(tmp_path) == {"items 3 0": 400}


def _totals() -> dict[str, int]:
    """50 instructions an operation, 900 a section, and far more in one section of five."""
    return {
        f"{name} {length * times} {turn}": 900 + 50 * length * times + (10**7 if turn == 3 else 0)
        for name, (_, times) in OPERATIONS.items()
        for length in (1, LONG)
        for turn in range(TURNS)
    }


# --- the record in the tree ---


def test_record_in_the_tree_can_be_used() -> None:
    record.parse(RECORDED.read_text(), OPERATIONS)


def test_figure_that_grew_has_a_new_reason_all_through_history() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    name = str(RECORDED.relative_to(ROOT))
    commits = _git("log", "--reverse", "--format=%H", "--diff-filter=AM", "--", name).split()
    texts = [_git("show", f"{commit}:{name}") for commit in commits] + [RECORDED.read_text()]
    versions = [record.parse(text) for text in texts]
    for before, after in itertools.pairwise(versions):
        assert unexplained(before, after) == []


def test_growth_without_a_new_reason_is_found() -> None:
    assert unexplained(recorded(), recorded(items=1060.0)) == ["items"]
    assert unexplained(recorded(), recorded(items=1040.0)) == []
    assert unexplained(recorded(), recorded(items=900.0)) == []
    explained = recorded()
    explained.figures["items"] = Figure(1060.0, "values are checked twice")
    assert unexplained(recorded(), explained) == []


def unexplained(before: Record, after: Record) -> list[str]:
    """The operations that grew from one record to the next and kept their reason."""
    return [
        name
        for name, figure in after.figures.items()
        if name in before.figures
        and record.has_grown(before.figures[name].instructions, figure.instructions)
        and before.figures[name].reason == figure.reason
    ]


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout
