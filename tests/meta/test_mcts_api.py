"""helios_shm.mcts has the names of mcts.pyi with their parameters; it may take more keyword-only options."""

import ast
import dataclasses
import inspect
from pathlib import Path

import pytest

from helios_shm import mcts
from tests.meta.test_api import is_decorated, library_shape, loosened, stub_shape

STUB = ast.parse(Path(__file__).with_name("mcts.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
METHODS = [
    (owner, item)
    for owner, node in CLASSES.items()
    for item in node.body
    if isinstance(item, ast.FunctionDef)
]


def test_the_names_of_the_stub_are_public() -> None:
    assert set(CLASSES) <= set(mcts.__all__)
    assert [name for name in mcts.__all__ if not hasattr(mcts, name)] == []


@pytest.mark.parametrize(("owner", "stub"), METHODS, ids=lambda given: getattr(given, "name", given))
def test_method_takes_what_the_stub_says(owner: str, stub: ast.FunctionDef) -> None:
    cls = getattr(mcts, owner)
    found = inspect.getattr_static(cls, stub.name, None)
    assert found is not None, f"{owner}.{stub.name} is missing"
    if is_decorated(stub, "property"):
        assert isinstance(found, property)
        return
    shape = [each for each in stub_shape(stub) if each[0] != "cls"]
    promised = {name for name, _, _ in shape}
    library = library_shape(getattr(cls, stub.name))
    more = [each for each in library if each[0] not in promised]
    if not stub.name.startswith("__") or stub.name == "__init__":
        assert all(kind == "KEYWORD_ONLY" and default for _, kind, default in more)
        library = [each for each in library if each[0] in promised]
        assert library == shape
    else:
        assert loosened(stub.name, library) == loosened(stub.name, shape)


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_attributes_of_the_stub(name: str) -> None:
    wanted = [ast.unparse(item.target) for item in CLASSES[name].body if isinstance(item, ast.AnnAssign)]
    if wanted:
        cls = getattr(mcts, name)
        assert [field.name for field in dataclasses.fields(cls)][: len(wanted)] == wanted
        assert cls.__dataclass_params__.frozen
