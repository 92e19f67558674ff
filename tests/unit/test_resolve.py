"""Resolvers by themselves: three values in, one out, or why there is none; and which resolver a path has."""

import builtins
import json
from typing import Any

import pytest

from helios_shm import Conflict, Resolver
from helios_shm.resolve import NAMES, NO_RULES, Rules, Unresolved, resolved

Value = bytes | None


def merged(name: Resolver, base: Value, ours: Value, theirs: Value) -> Value:
    return resolved(name, Conflict("path", base, ours, theirs))


@pytest.mark.parametrize(
    ("name", "base", "ours", "theirs", "expected"),
    [
        ("ours", b"b", b"o", b"t", b"o"),
        ("ours", b"b", None, b"t", None),
        ("theirs", b"b", b"o", b"t", b"t"),
        ("theirs", b"b", b"o", None, None),
        ("sum", b"1", b"3", b"11", b"13"),
        ("sum", None, b"3", b"4", b"7"),
        ("sum", b"5", b"3", b"4", b"2"),
        ("sum", b"0.5", b"1", b"1.25", b"1.75"),
        ("sum", b"0.1", b"0.2", b"0.3", b"0.4"),
        ("sum", b"0", b"9007199254740993", b" 1\n", b"9007199254740994"),
        ("max", b"0", b"3", b"20", b"20"),
        ("max", b"100", b"3", b"20", b"20"),
        ("max", None, b"-3", b"-20", b"-3"),
        ("max", b"0", b"1.0", b"1", b"1"),
        ("max", b"0", b"9007199254740993", b"9007199254740992.0", b"9007199254740993"),
        ("min", b"0", b"3", b"20", b"3"),
        ("min", b"0", b"1", b"1.0", b"1"),
        ("union", b"[1,2]", b"[1,2,3]", b"[2]", b"[2,3]"),
        ("union", None, b'["b"]', b'["a","b"]', b'["a","b"]'),
        ("union", b"[]", b"[10,9]", b'[[1],{"a":1},"x",null]', b'[9,10,"x",[1],null,{"a":1}]'),
        ("union", b"[1,1]", b"[1, 1]", b"[1]", b"[1]"),
        ("append", b"[1]", b"[1,2]", b"[1,3]", b"[1,3,2]"),
        ("append", None, b'["o"]', b'["t"]', b'["t","o"]'),
        ("append", b"log\n", b"log\nours\n", b"log\ntheirs\n", b"log\ntheirs\nours\n"),
        ("append", None, b"ours", b"theirs", b"theirsours"),
        ("append", b"\xff", b"\xff\x01", b"\xff\x02", b"\xff\x02\x01"),
        ("text", b"a\nb\nc\n", b"A\nb\nc\n", b"a\nb\nC\n", b"A\nb\nC\n"),
        ("text", b"a\nb\nc", b"a\nb\nc\nd", b"z\na\nb\nc", b"z\na\nb\nc\nd"),
        ("text", b"a\n", b"b\n", b"b\n", b"b\n"),
        ("text", "ä\nö\nü\n".encode(), "ä\nö\nU\n".encode(), "A\nö\nü\n".encode(), "A\nö\nU\n".encode()),
        ("text", b"a\r\nb\nc\nd", b"a\r\nb\nc\n", b"x\r\nb\nc\nd", b"x\r\nb\nc\n"),
        ("text", b"", b"", b"x", b"x"),
    ],
)
def test_named_resolver_gives(
    name: Resolver, base: Value, ours: Value, theirs: Value, expected: Value
) -> None:
    assert merged(name, base, ours, theirs) == expected


@pytest.mark.parametrize(
    ("name", "base", "ours", "theirs", "why"),
    [
        ("sum", b"1", b"x", b"2", "ours is no JSON"),
        ("sum", b"1", b"2", b'"3"', "theirs is no JSON number"),
        ("sum", b"true", b"2", b"3", "base is no JSON number"),
        ("sum", b"1", b"2", b"NaN", "theirs is no JSON"),
        ("sum", b"1", b"2", b"1e999", "theirs is no JSON number"),
        ("sum", b"0", b"1e308", b"1e308", "no finite number"),
        ("sum", b"0.5", b"1", b"1" + b"0" * 400, "no finite number"),
        ("sum", b"0", b"1", b"1" * 5000, "theirs is no JSON"),
        ("sum", b"1", None, b"2", "ours has removed it"),
        ("max", b"1", b"2", None, "theirs has removed it"),
        ("max", b"1", b"[2]", b"3", "ours is no JSON number"),
        ("union", b"[]", b"{}", b"[]", "ours is no JSON array"),
        ("union", b"[]", b"[1e999]", b"[]", "no JSON"),
        ("union", b"[]", b"[" * 100_000, b"[]", "ours is no JSON"),
        ("append", b"ab", b"abc", b"b", "theirs does not begin with base"),
        ("append", b"[1,2]", b"[1]", b"[1,2,3]", "ours does not begin with base"),
        ("text", b"a\nb\n", b"a\nx\n", b"a\ny\n", "both changed what follows line 1"),
        ("text", b"a", b"\xff", b"b", "ours is no UTF-8"),
        ("text", b"a", b"b", b"\0", "theirs holds a NUL"),
    ],
)
def test_what_a_named_resolver_cannot_merge_it_says(
    name: Resolver, base: Value, ours: Value, theirs: Value, why: str
) -> None:
    with pytest.raises(Unresolved, match=why):
        merged(name, base, ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_what_both_have_removed_is_removed(name: Resolver) -> None:
    assert merged(name, b"1", None, None) is None


def test_callable_gets_the_three_values_and_returns_one() -> None:
    seen: list[Conflict] = []

    def keep(conflict: Conflict) -> bytes | None:
        seen.append(conflict)
        return conflict.theirs

    assert merged(keep, b"b", None, b"t") == b"t"
    assert merged(lambda _: None, b"b", b"o", b"t") is None
    assert merged(lambda _: bytearray(b"x"), b"b", b"o", b"t") == b"x"
    assert seen == [Conflict("path", b"b", None, b"t")]
    with pytest.raises(TypeError, match="'path' returns bytes, or None to remove it; not str"):
        merged(lambda _: "text", b"b", b"o", b"t")  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("total", ["total"], ["a/total", "totals", "Total"]),
        ("hits/*", ["hits/all", "hits/"], ["hits", "hits/a/b", "misses/hits/all"]),
        ("*", ["total", ".hidden"], ["a/b"]),
        ("**", ["total", "a/b", "a//b"], []),
        ("a/**", ["a/b", "a/b/c", "a/"], ["a", "b/a/c"]),
        ("**/n", ["n", "a/n", "a/b/n"], ["n/a", "xn"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a", "z", "a/b/zz"]),
        ("a/**/b/**/c", ["a/b/c", "a/x/b/y/z/c", "a/b/b/c"], ["a/c", "a/b"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("a[*]", ["a*"], ["ab"]),
        ("a**", ["ab", "a"], ["a/b"]),
    ],
)
def test_pattern_matches_whole_paths_segment_by_segment(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    rules = Rules({pattern: "sum"})
    assert [path for path in matching + others if rules.of(path)] == matching


def test_first_pattern_that_matches_counts() -> None:
    rules = Rules({"hits/best": "max", "hits/*": "sum"})
    assert (rules.of("hits/best"), rules.of("hits/all"), rules.of("x")) == ("max", "sum", None)
    assert Rules({"*": "sum", "a": "max"}).of("a") == "sum"
    assert Rules("union").of("anything/at all") == "union"
    assert not NO_RULES and not Rules({}) and NO_RULES.of("a") is None
    assert Rules("sum") and Rules({"a": "sum"})


@pytest.mark.parametrize(
    ("resolve", "error", "message"),
    [
        ("mine", ValueError, "a resolver is one of ours, theirs, sum.*not 'mine'"),
        ({"a": "add"}, ValueError, "not 'add'"),
        ({"": "sum"}, ValueError, "not empty"),
        ({1: "sum"}, TypeError, "a pattern of paths is a str, not int"),
        ({"a": 3}, TypeError, "a name or a callable, not int"),
        (3, TypeError, "a name or a callable, not int"),
    ],
)
def test_what_is_no_resolver_is_refused(resolve: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Rules(resolve)


def test_without_its_library_text_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "merge3":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "helios-shm\[merge\]"'):
        Rules({"*.txt": "text"})


def test_numbers_and_arrays_are_written_as_the_codec_writes_them() -> None:
    assert merged("union", None, b'["\\u00e4", {"b": 1, "a": 2}]', b"[]") == (
        json.dumps([{"a": 2, "b": 1}], separators=(",", ":")).encode()[:-1].replace(b"[", b'["\xc3\xa4",', 1)
        + b"]"
    )
