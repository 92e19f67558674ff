"""What a person asks of a state and its history: the names below a prefix, the commits that touched a path."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helios_shm import Engine, open


def test_listdir_names_each_directory_once_and_each_file(engine: Engine) -> None:
    ws = engine.empty.fork()
    for path in ("a", "a/x", "a/y/z", "a-b", "b/1", "c"):
        ws[path] = b"."
    for number in range(1200):
        ws[f"many/{number:04}/leaf"] = b"."
    state = ws.commit().snapshot
    assert list(state.listdir()) == ["a", "a-b", "a/", "b/", "c", "many/"]
    assert list(state.listdir("a/")) == ["x", "y/"]
    assert list(state.listdir("many/")) == [f"{number:04}/" for number in range(1200)]
    assert list(state.listdir("nothing/")) == []
    assert list(engine.empty.listdir()) == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with open(tmp_path_factory.mktemp("listing") / "store") as engine:
        yield engine


parts = st.text(st.sampled_from("/ab\u00e9\0\U0001f600"), max_size=5)


@settings(max_examples=50)
@given(st.sets(parts.filter(bool), max_size=15), parts)
def test_listdir_has_what_goes_on_behind_the_prefix(shared: Engine, paths: set[str], prefix: str) -> None:
    ws = shared.empty.fork()
    ws.update(dict.fromkeys(paths, b""))
    state = ws.commit().snapshot
    behind = [path[len(prefix) :].partition("/") for path in sorted(paths) if path.startswith(prefix)]
    assert list(state.listdir(prefix)) == list(dict.fromkeys(name + slash for name, slash, _ in behind))


def test_log_of_a_path_has_the_commits_that_touched_it(engine: Engine) -> None:
    branch = engine.branch("main")
    for number, path in enumerate(["src/a", "src/b", "src/a", "doc"]):
        with branch.transaction(f"{number}: {path}") as ws:
            ws[path] = str(number).encode()
    with branch.transaction("removed") as ws:
        del ws["src/b"]

    def messages(path: str) -> list[str]:
        return [commit.message for commit in branch.log(path=path)]

    assert messages("src/a") == ["2: src/a", "0: src/a"]
    assert messages("src/b") == ["removed", "1: src/b"]
    assert messages("src/") == ["removed", "2: src/a", "1: src/b", "0: src/a"]
    assert messages("nothing") == []
    assert [commit.message for commit in branch.log(1, path="src/a")] == ["2: src/a"]


def test_log_refuses_what_is_no_path(engine: Engine) -> None:
    branch = engine.branch("main")
    with pytest.raises(ValueError, match="1024 bytes"):
        branch.log(path="")
    with pytest.raises(TypeError, match="str"):
        branch.log(path=3)  # type: ignore[arg-type]
