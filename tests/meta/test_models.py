"""The models are held to the code and to the documents: labels, sizes, and a table that names each of them."""

import re
from pathlib import Path

import pytest

from tests.crash.stages import models

ROOT = Path(__file__).resolve().parents[2]
MODELS = sorted((ROOT / "tests" / "models").glob("*.pml"))
LINES_MAX = 185


# Where a coordinator may die in a collection while it does what nobody else sees (docs/CONCURRENCY.md, "Collection").
# What others see of one has labels of its own, at which collect.pml dies.
ALONE = {
    "trimmed",
    "marked",
    "copied",
    "pending",
    "flipped",
    "committed",
    "gone",
    "deleted",
    "trashed",
    "punched",
    "told",
}


def labels_of(model: Path) -> set[str]:
    """The labels at which a process of the model may die."""
    return set(re.findall(r"HS_STEP\((\w+)\)(?! if)", model.read_text()))


def labels_of_code() -> set[str]:
    return set(re.findall(r"\bX\((\w+)\)", (ROOT / "csrc" / "hs_step.h").read_text())) - {"label"}


def test_models_and_code_have_the_same_labels() -> None:
    modelled = set().union(*map(labels_of, MODELS)) - {"label"}
    code = labels_of_code()
    assert len(code) > 20
    assert sorted(code - modelled - {f"gc_{name}" for name in ALONE}) == [], (
        "steps of the code at which no model dies"
    )
    assert sorted(modelled - code) == [], "steps of a model that the code does not have"


def test_concurrency_tables_name_every_label() -> None:
    text = (ROOT / "docs" / "CONCURRENCY.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert sorted(labels_of_code() - rows) == []


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_model_is_short_and_says_what_it_is(model: Path) -> None:
    text = model.read_text()
    lines = text.splitlines()
    assert len(lines) <= LINES_MAX
    assert max(map(len, lines)) <= 130
    head = text[: text.index("*/")]
    for word in (f"/* {model.name} - ", "Modelled:", "Left out:", "Properties:", "Mutants"):
        assert word in head, word


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_every_mutant_of_a_model_is_explained_and_run(model: Path) -> None:
    text = model.read_text()
    explained = set(re.findall(r"\b([A-Z][A-Z0-9]{3,})\b", text[text.index("Mutants") : text.index("*/")]))
    flags = set(re.findall(r"#\s*ifn?def (\w+)|defined\((\w+)\)", text))
    used = {first or second for first, second in flags} - {"SUSPECT", "DEDUP", "HEADS"}
    run = {mutant.flag for mutant in models.MUTATIONS if mutant.model == model.name}
    assert run == used and run <= explained


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_every_model_is_checked_and_named_in_the_documents(model: Path) -> None:
    assert model.name in {check.model for check in models.CHECKS}
    assert f"`{model.name}`" in (ROOT / "docs" / "CONCURRENCY.md").read_text()
    assert f"`{model.name}`" in (ROOT / "tests" / "models" / "README.md").read_text()
