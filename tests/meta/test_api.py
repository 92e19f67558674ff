"""The library has the public names of api.pyi, with the same signatures, and no others."""

import ast
import builtins
import collections.abc
import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import helios_shm

STUB = ast.parse(Path(__file__).with_name("api.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
FUNCTIONS = {node.name: node for node in STUB.body if isinstance(node, ast.FunctionDef)}
MODULES = {
    alias.name
    for node in STUB.body
    if isinstance(node, ast.ImportFrom) and node.level
    for alias in node.names
}
ALIASES = {ast.unparse(node.target) for node in STUB.body if isinstance(node, ast.AnnAssign)}
# A report: a program reads the figures it was promised, a person reads whatever there is.
MAY_SAY_MORE = {"Stats"}

Shape = list[tuple[str, str, bool]]


def stub_shape(function: ast.FunctionDef) -> Shape:
    """(name, kind, has a default) of each parameter after `self`."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    first_default = len(positional) - len(given.defaults)
    shape = []
    for index, argument in enumerate(positional):
        kind = "POSITIONAL_ONLY" if index < len(given.posonlyargs) else "POSITIONAL_OR_KEYWORD"
        shape.append((argument.arg, kind, index >= first_default))
    if given.vararg:
        shape.append((given.vararg.arg, "VAR_POSITIONAL", False))
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        shape.append((argument.arg, "KEYWORD_ONLY", default is not None))
    return [parameter for parameter in shape if parameter[0] != "self"]


def library_shape(function: object) -> Shape:
    assert callable(function)
    parameters = inspect.signature(function).parameters.values()
    return [
        (parameter.name, parameter.kind.name, parameter.default is not inspect.Parameter.empty)
        for parameter in parameters
        if parameter.name != "self"
    ]


def loosened(name: str, shape: Shape) -> Shape:
    """Nobody calls a dunder method by keyword: what its parameters are called is its own affair."""
    if not name.startswith("__"):
        return shape
    return [] if name == "__exit__" else [("", "", given) for _, _, given in shape]


def is_decorated(function: ast.FunctionDef, decorator: str) -> bool:
    return any(ast.unparse(each) == decorator for each in function.decorator_list)


def methods() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Each method; of several overloads the last, which has all parameters, with defaults for those of its own."""
    for name, node in CLASSES.items():
        found = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        for item in found.values():
            if is_decorated(item, "overload"):
                item.args.kw_defaults = [ast.Constant(...) for _ in item.args.kwonlyargs]
            yield name, item


def test_public_names_are_those_of_the_stub() -> None:
    assert set(helios_shm.__all__) - {"__version__"} == set(CLASSES) | set(FUNCTIONS) | ALIASES | MODULES
    assert [name for name in helios_shm.__all__ if not hasattr(helios_shm, name)] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_has_the_signature_of_the_stub(name: str) -> None:
    assert library_shape(getattr(helios_shm, name)) == stub_shape(FUNCTIONS[name])


@pytest.mark.parametrize(("owner", "stub"), list(methods()), ids=lambda given: getattr(given, "name", given))
def test_method_has_the_signature_of_the_stub(owner: str, stub: ast.FunctionDef) -> None:
    found = inspect.getattr_static(getattr(helios_shm, owner), stub.name, None)
    assert found is not None, f"{owner}.{stub.name} is missing"
    if is_decorated(stub, "property"):
        assert not callable(found), f"{owner}.{stub.name} must be read without a call"
    else:
        expected = loosened(stub.name, stub_shape(stub))
        assert loosened(stub.name, library_shape(getattr(getattr(helios_shm, owner), stub.name))) == expected


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_bases_of_the_stub(name: str) -> None:
    for base in CLASSES[name].bases:
        wanted = ast.unparse(base).split("[")[0]
        for place in (helios_shm, collections.abc, builtins):
            if hasattr(place, wanted):
                assert issubclass(getattr(helios_shm, name), getattr(place, wanted))
                break
        else:
            assert wanted in ("Generic", "Protocol")


@pytest.mark.parametrize("name", CLASSES)
def test_class_has_the_attributes_of_the_stub(name: str) -> None:
    cls = getattr(helios_shm, name)
    wanted = [ast.unparse(item.target) for item in CLASSES[name].body if isinstance(item, ast.AnnAssign)]
    if "dataclass" in " ".join(map(ast.unparse, CLASSES[name].decorator_list)):
        assert [field.name for field in dataclasses.fields(cls)] == wanted
        assert cls.__dataclass_params__.frozen and hasattr(cls, "__slots__")
    else:
        annotated = {key for base in cls.__mro__ for key in getattr(base, "__annotations__", {})}
        assert [key for key in wanted if key not in annotated and not hasattr(cls, key)] == []


@pytest.mark.parametrize("name", sorted(set(CLASSES) - MAY_SAY_MORE))
def test_class_has_no_other_public_names(name: str) -> None:
    """Names that come from a base class outside the library are that class's, and allowed."""
    cls = getattr(helios_shm, name)
    own = [base for base in cls.__mro__ if base.__module__.startswith("helios_shm")]
    theirs = {key for base in cls.__mro__ if base not in own for key in vars(base)}
    found = {key for base in own for key in vars(base) if not key.startswith("_")}
    stubs = [CLASSES[base.__name__] for base in own if base.__name__ in CLASSES]
    promised = {item.name for stub in stubs for item in stub.body if isinstance(item, ast.FunctionDef)}
    promised |= {
        ast.unparse(item.target) for stub in stubs for item in stub.body if isinstance(item, ast.AnnAssign)
    }
    assert found - promised - theirs == set()
