"""The repair of a real package: mutations take each other back, and a seeded bug is found and mended."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import helios_shm
from examples.repair.mutations import Mutation, mutations_of
from tests.programs import untraced

ROOT = Path(__file__).parents[2]

SOURCE = '''\
"""\u00fcber 1 < 2: no code"""
def f(a, b, *c):
    if a <  b + 1 and not c:   # a comment: 3
        return a is not None
    while (a not in c) or b % 2 == 0x10:
        b = (c[ 0] if True else -1) \\
            - b
    return [a, not b]
'''


def mutated(source: str, mutation: Mutation) -> str:
    edit = mutation.edit
    assert source.startswith(edit.old, edit.at)
    assert edit.at is not None
    return source[: edit.at] + edit.new + source[edit.at + len(edit.old) :]


def test_mutations_change_one_place_and_name_its_line() -> None:
    found = list(mutations_of("f.py", SOURCE.encode()))
    assert {(mutation.line, mutation.edit.old, mutation.edit.new) for mutation in found} >= {
        (3, "<", "<="), (3, "<", ">"), (3, "+", "-"), (3, "1", "2"), (3, "1", "0"), (3, "and", "or"), (3, "not c", "c"),
        (3, "a <  b + 1 and not c", "not (a <  b + 1 and not c)"), (4, "is not", "is"),
        (4, "a is not None", "not (a is not None)"), (5, "not in", "in"), (5, "or", "and"), (5, "%", "*"),
        (5, "==", "!="), (5, "0x10", "17"), (6, "True", "False"), (6, "0", "1"), (7, "-", "+"), (8, "not b", "b"),
    }  # fmt: skip
    for mutation in found:
        ast.parse(mutated(SOURCE, mutation))
        assert SOURCE[: mutation.edit.at].count("\n") + 1 == mutation.line
        assert mutated(SOURCE, mutation) != SOURCE


def test_each_mutation_is_taken_back_by_another() -> None:
    whole = ast.dump(ast.parse(SOURCE))
    for mutation in mutations_of("f.py", SOURCE.encode()):
        sick = mutated(SOURCE, mutation)
        if mutation.edit.old.startswith("not "):
            continue  # what was negated outside a condition can be negated again there alone
        mended = {ast.dump(ast.parse(mutated(sick, each))) for each in mutations_of("f.py", sick.encode())}
        assert whole in mended, mutation


def repair(*options: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "examples.repair", *map(str, options)],
        cwd=ROOT, env=untraced(), timeout=100, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_bug_is_found_and_mended(store_path: Path) -> None:
    lines = repair("--bugs", 1, "--strategy", "best", "--store", store_path).splitlines()
    assert [line.split(" in ")[0] for line in lines if line.startswith("seeded")] == ["seeded"]
    assert any(line.startswith("100.0% of the tests pass") for line in lines)
    assert sum(line.startswith("-  ") for line in lines) == sum(line.startswith("+  ") for line in lines) == 1
    with helios_shm.open(store_path, create=False) as engine:
        assert len(engine.branches("judged/")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tournament", "beam", "tree"])
def test_two_bugs_are_found_and_mended(strategy: str) -> None:
    lines = repair("--strategy", strategy).splitlines()
    assert sum(line.startswith("seeded") for line in lines) == 2
    assert any(line.startswith("100.0% of the tests pass") for line in lines)
