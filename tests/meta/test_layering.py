"""A file uses only lower floors; the list of floors stands here, lowest first."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Lowest first. A module may import those above it in this list, never those below it.
PYTHON_FLOORS = [
    "errors",
    "types",
    "record",
    "config",
    "names",
    "_native",
    "_hot",
    "_capi",
    "metrics",
    "hashing",
    "codec",
    "store",
    "blobs",
    "pages",
    "dead",
    "retention",
    "l2",
    "lifecycle",
    "attachment",
    "l1",
    "mapping",
    "history",
    "codecs",
    "view",
    "resolve",
    "globs",
    "worktree",
    "files",
    "materialize",
    "ingest",
    "snapshot",
    "merge",
    "commit",
    "undo",
    "turn",
    "workspace",
    "isolation",
    "watch",
    "branch",
    "tags",
    "gitpack",
    "git",
    "collector",
    "coordinator",
    "check",
    "collect",
    "engine",
    "doctor",
    "bundle",
    "__init__",
    "__main__",
]

# The command line stands above all and uses the public API; and of the modules below it these alone, for what the
# public API does not have.
BELOW_THE_COMMAND_LINE = {
    "bundle": "a module to import beside the package",
    "git": "likewise",
    "doctor": "examine",
    "lifecycle": "destroy_store",
    "store": "what is written in a store's description",
}

# The search likewise: a client of the public API, in an order of its own, lowest first; these two map memory that the
# C core works on.
SEARCH_FLOORS = [
    "environment",
    "metrics",
    "table",
    "options",
    "mailbox",
    "evaluator",
    "simulate",
    "gather",
    "tree",
    "picture",
    "rows",
    "save",
    "trials",
    "forest",
    "worker",
    "pool",
    "driver",
    "search",
    "games",
    "agent",
    "__init__",
]
SEARCH_REACHES_CORE = {"table", "mailbox"}

# What a user holds in hand makes and finds its neighbours: each such link up is an import inside a function,
# and has its reason here.
LINKS_UP = {
    ("snapshot", "engine"): "Snapshot.engine, and unpickling, which opens the store",
    ("snapshot", "merge"): "Snapshot.merge: a merge of states is made of snapshots",
    ("branch", "engine"): "Branch.engine, and unpickling",
}

# Each of these is imported by one module only, so that there is one place to look at.
ONLY_IMPORTER = {
    "pygit2": "git",
    "_native": "_capi",
    "lz4": "codec",
    "blake3": "hashing",
    "lmdb": "l2",
    "merge3": "resolve",
    "pathspec": "globs",
}

# Read by setuptools alone.
NOT_IN_THE_HOUSE = {"_ffi_build"}

C_FLOORS = [
    "hs_base",
    "hs_atomic",
    "hs_err",
    "hs_step",
    "hs_clock",
    "hs_futex",
    "hs_spawn",
    "hs_mailbox",
    "hs_checksum",
    "hs_blake3",
    "hs_randomness",
    "hs_layout",
    "hs_histogram",
    "hs_node",
    "hs_files",
    "hs_record",
    "hs_pack",
    "hs_lease",
    "hs_segment",
    "hs_metrics",
    "hs_participant",
    "hs_chunk",
    "hs_survey",
    "hs_heat",
    "hs_index",
    "hs_ring",
    "hs_branch",
    "hs_turn",
    "hs_cache",
    "hs_tree",
    "hs_mark",
    "hs_locator",
    "hs_drain",
    "hs_engine",
    "hs_read",
    "hs_commit",
    "hs_search",
]


def python_modules() -> list[Path]:
    paths = sorted((ROOT / "helios_shm").glob("*.py"))
    return [path for path in paths if path.stem not in NOT_IN_THE_HOUSE]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(tree: ast.AST, *, deferred: bool = True) -> Iterator[str]:
    """What the module imports when it runs, not for types alone; '.name' for a sibling."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node) or (isinstance(node, ast.FunctionDef) and not deferred):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            whole = base.strip(".") in ("", "helios_shm")
            yield from (f"{base.rstrip('.')}.{alias.name}" for alias in node.names) if whole else (base,)
        else:
            yield from imports(node, deferred=deferred)


def sibling(name: str) -> str | None:
    """The module of this package that an imported name means, if it means one."""
    match = re.match(r"(?:\.|helios_shm\.)(\w+)", name)
    if match:
        is_module = match[1] in PYTHON_FLOORS or (ROOT / "helios_shm" / f"{match[1]}.py").exists()
        return match[1] if is_module else "__init__"
    return "__init__" if name == "helios_shm" else None


@pytest.mark.parametrize("path", python_modules(), ids=lambda path: path.stem)
def test_python_module_imports_only_lower_floors(path: Path) -> None:
    assert path.stem in PYTHON_FLOORS, f"{path.name}: say in PYTHON_FLOORS on which floor it stands"
    lower = PYTHON_FLOORS[: PYTHON_FLOORS.index(path.stem)]
    tree = ast.parse(path.read_text())
    at_import = {sibling(name) for name in imports(tree, deferred=False)} - {None}
    links_up = {sibling(name) for name in imports(tree)} - {None} - set(lower)
    assert at_import <= set(lower), f"{path.name} imports what stands higher"
    assert links_up == {above for below, above in LINKS_UP if below == path.stem}


def test_command_line_uses_the_public_api() -> None:
    package = ROOT / "helios_shm" / "cli"
    own = {path.stem for path in package.glob("*.py")}
    used = set()
    for path in package.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                named = [
                    alias.name for alias in node.names if (ROOT / "helios_shm" / f"{alias.name}.py").exists()
                ]
                used.update([node.module.split(".")[0]] if node.module else [*named, "__init__"])
            elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
                assert node.module in own, f"{path.name} imports {node.module}"
    assert used == {"__init__", *BELOW_THE_COMMAND_LINE}


def search_modules() -> list[Path]:
    return sorted((ROOT / "helios_shm" / "mcts").rglob("*.py"))


@pytest.mark.parametrize("path", search_modules(), ids=lambda path: path.stem)
def test_search_module_imports_only_lower_floors(path: Path) -> None:
    package = ROOT / "helios_shm" / "mcts"
    parts = path.relative_to(package).parts
    floor, depth = SEARCH_FLOORS.index(parts[0].removesuffix(".py")), len(parts)
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        if node.level == depth:  # a sibling of the package's own
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            for name in names:
                if name in SEARCH_FLOORS:
                    assert SEARCH_FLOORS.index(name) < floor, (
                        f"{path.name} imports {name}, which stands higher"
                    )
        elif node.level == depth + 1:
            below = {node.module or "__init__"} - {"__init__", "errors"}
            allowed = {"_capi"} if path.stem in SEARCH_REACHES_CORE else set()
            assert below <= allowed, f"{path.name} reaches below the public API: {below}"


@pytest.mark.parametrize(("imported", "importer"), list(ONLY_IMPORTER.items()))
def test_foreign_module_has_one_importer(imported: str, importer: str) -> None:
    found = set()
    for path in python_modules():
        for name in imports(ast.parse(path.read_text())):
            first = name.removeprefix("helios_shm").lstrip(".").split(".")[0]
            if first == imported:
                found.add(path.stem)
    assert found == {importer}


def c_floor(stem: str) -> int:
    """The floor of a C file; hs_blake3_x86 stands on that of hs_blake3, whose part it is."""
    for floor, owner in enumerate(C_FLOORS):
        if stem == owner or stem.startswith(owner + "_"):
            return floor
    raise AssertionError(f"{stem}: say in C_FLOORS on which floor it stands")


def c_files() -> list[Path]:
    return sorted((ROOT / "csrc").glob("hs_*.[ch]"))


@pytest.mark.parametrize("path", c_files(), ids=lambda path: path.name)
def test_c_file_includes_only_lower_floors(path: Path) -> None:
    included = set(re.findall(r'#include "(\w+)\.h"', path.read_text())) - {"helios_shm"}
    family = C_FLOORS[c_floor(path.stem)]
    higher = [
        name
        for name in sorted(included)
        if c_floor(name) >= c_floor(path.stem) and not name.startswith(family)
    ]
    assert higher == [], f"{path.name} includes what stands no lower"


def test_floors_name_only_modules_that_exist() -> None:
    present = {path.stem for path in python_modules()} | {"_native", "_hot"}
    assert set(PYTHON_FLOORS) <= present
    assert set(C_FLOORS) <= {path.stem for path in c_files()}
