"""The runner of the proof: what counts as found, as missed, and as nothing said at all."""

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from helios_shm.store import StoreInfo, info_bytes
from tests.crash import __main__ as runner
from tests.crash.stage import Outcome, Run
from tests.crash.tree import BuildError, Mutant, mutated

IN_PYTHON = Mutant(
    "other version", "helios_shm/config.py", "KEY_BYTES_MAX: Final = 1024", "KEY_BYTES_MAX: Final = 7", "seen"
)
IN_C = Mutant("other error text", "csrc/hs_err.c", '"the wait ended without its event"', '"mutated"', "seen")


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str | None, Outcome | Exception]:
    """What a stage's processes say, by the mutant they are given; no process is started."""
    said: dict[str | None, Outcome | Exception] = {None: Outcome({"kills": 5})}
    stage = types.SimpleNamespace(TITLE="fake", SECONDS=1.0, MUTANTS=(IN_PYTHON,))

    def run(_: Any, tree: Path, asked: dict[str, Any], directory: Path, verbose: bool) -> Outcome:
        directory.mkdir(parents=True)
        answer = said[asked["mutant"]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(runner, "stages", lambda: ["fake"])
    monkeypatch.setattr(runner, "_module", lambda name: stage)
    monkeypatch.setattr(runner, "library", lambda tree: tree)
    monkeypatch.setattr(runner._Children, "run", run)
    return said


def test_stage_without_violations_that_finds_its_bugs_passes(
    answers: dict[str | None, Outcome | Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    answers[IN_PYTHON.name] = Outcome(violations=["wrong value"])
    assert runner.main(["--seed", "7"]) == 0
    out = capsys.readouterr().out
    assert "--seed 7" in out and "5 kills" in out and "1/1 bugs caught" in out and "1 passed, 0 failed" in out


def test_bug_that_is_not_found_fails(
    answers: dict[str | None, Outcome | Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    answers[IN_PYTHON.name] = Outcome()
    assert runner.main([]) == 1
    assert "'other version' was not found" in capsys.readouterr().out


def test_bug_that_shows_in_a_race_has_more_than_one_try(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str | None, Outcome | Exception]
) -> None:
    seeds: list[int] = []

    def run(_: Any, tree: Path, asked: dict[str, Any], directory: Path, verbose: bool) -> Outcome:
        if asked["mutant"] is None:
            return Outcome()
        seeds.append(asked["seed"])
        return Outcome(violations=["found"] if len(seeds) == 2 else [])

    monkeypatch.setattr(runner._Children, "run", run)
    assert runner.main(["--seed", "7"]) == 0
    assert seeds == [7, 8]


def test_stage_that_breaks_down_over_a_bug_has_not_found_it(
    answers: dict[str | None, Outcome | Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    answers[IN_PYTHON.name] = runner.StageFailed("it raised")
    assert runner.main([]) == 1
    assert "it raised" in capsys.readouterr().out


def test_violation_fails_and_what_it_left_is_kept(
    answers: dict[str | None, Outcome | Exception],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(runner, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    answers[None] = Outcome(violations=["commit 17 was lost"])
    assert runner.main(["--no-mutants"]) == 1
    assert "commit 17 was lost" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "kept").glob("*/*")] == ["run"]


def test_segments_of_a_stages_stores_go_with_its_directory_and_no_others(
    answers: dict[str | None, Outcome | Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = tmp_path / "shm"
    shared.mkdir()
    monkeypatch.setattr(runner, "_SHARED_MEMORY", shared)
    theirs, others = (bytes([number]) * 16 for number in (1, 2))
    names = [
        f"helios-{uuid.hex()}-{place}" for uuid in (theirs, others) for place in ("0000aaaa", "0000bbbb")
    ]

    def run(_: Any, tree: Path, asked: dict[str, Any], directory: Path, verbose: bool) -> Outcome:
        for name in ("store", "damaged"):
            (directory / name).mkdir(parents=True)
        (directory / "damaged" / "helios.json").write_bytes(b"{")
        (directory / "store" / "helios.json").write_bytes(info_bytes(StoreInfo(theirs, "now", False)))
        for name in names:
            (shared / name).touch()
        return Outcome(violations=["found"] if asked["mutant"] else [])

    monkeypatch.setattr(runner._Children, "run", run)
    assert runner.main([]) == 0
    assert sorted(path.name for path in shared.iterdir()) == names[2:]


def test_own_control_that_is_not_caught_fails(answers: dict[str | None, Outcome | Exception]) -> None:
    answers[None] = Outcome(caught={"syncs dropped": False})
    answers[IN_PYTHON.name] = Outcome(violations=["wrong value"])
    assert runner.main([]) == 1


def test_unknown_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--stage", "no such"]) == 2
    assert "no such stage" in capsys.readouterr().err


def test_bar_that_is_not_reached_is_a_violation() -> None:
    outcome = Outcome({"kills": 999})
    outcome.reached("kills", 1000)
    assert outcome.violations == ["the bar was not reached: kills is 999, of 1000"]
    outcome = Outcome({"kills": 1000})
    outcome.reached("kills", 1000)
    assert not outcome.violations


def test_same_seed_gives_the_same_choices_whatever_else_is_chosen() -> None:
    one, other = (Run(5, 1.0, Path(), Path()) for _ in range(2))
    one.chance("before").random()
    assert one.chance("kill", 3).random() == other.chance("kill", 3).random()
    assert one.chance("kill", 3).random() != one.chance("kill", 4).random()


def test_children_of_a_mutated_tree_run_what_was_mutated(tmp_path: Path) -> None:
    for mutant, question, answer in [
        (IN_PYTHON, "helios_shm.config.KEY_BYTES_MAX", "7"),
        (IN_C, "_capi.ffi.string(_capi.lib.hs_strerror(_capi.lib.HS_TIMED_OUT)).decode()", "mutated"),
    ]:
        root = mutated(mutant, tmp_path)
        program = f"import helios_shm.config; from helios_shm import _capi; print({question})"
        done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
        assert done.stdout.strip() == answer, done.stderr


def test_bug_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    gone = Mutant("gone", "helios_shm/config.py", "no such text", "", "never")
    with pytest.raises(BuildError, match="occurs 0 times"):
        mutated(gone, tmp_path)
