"""What commands have in common: options, arguments, and the completion of names that only the store knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from .. import Engine, HeliosError, Resolver
from .output import wants_colour
from .store import BRANCH_DEFAULT, Place

F = TypeVar("F", bound=Callable[..., Any])
_COMPLETIONS_MAX = 200
HELP_WIDTH = 100

pass_place = click.make_pass_decorator(Place, ensure=True)


class Context(click.Context):
    """click's context, with colours by this program's rule."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **{"max_content_width": HELP_WIDTH, **named})
        self.color = wants_colour()


def _take_store(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Place).given = value


class Command(click.Command):
    """A command: takes ``--store`` as well, wherever it stands."""

    context_class = Context

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        store = click.Option(
            ["--store"], hidden=True, expose_value=False, is_eager=True, callback=_take_store
        )
        self.params.append(store)


class Section(click.Group):
    """A command that has commands: git, bundle."""

    command_class = Command
    context_class = Context


# --- completion ---


def _completed(ctx: click.Context, look: Callable[[Engine], list[str]]) -> list[CompletionItem]:
    """What the store knows. A completion never fails and never makes a store."""
    place = ctx.find_object(Place) or Place()
    root = ctx.find_root()
    place.given = place.given or root.params.get("store")
    with contextlib.suppress(HeliosError, OSError, ValueError), place.read() as engine:
        return [CompletionItem(name) for name in look(engine)[:_COMPLETIONS_MAX]]
    return []


class BranchName(click.types.StringParamType):
    """The name of a branch."""

    name = "branch"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _completed(ctx, lambda engine: engine.branches(incomplete))


class Reference(click.types.StringParamType):
    """A branch, a commit, a tag or a snapshot."""

    name = "reference"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return _completed(ctx, lambda engine: [*engine.branches(incomplete), *engine.tags(incomplete)])


class StatePath(click.types.StringParamType):
    """A path of the state."""

    name = "path"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        def look(engine: Engine) -> list[str]:
            head = engine.branch(ctx.params.get("branch") or BRANCH_DEFAULT, create=False).head
            below = incomplete.rpartition("/")[0] + "/" if "/" in incomplete else ""
            names = (below + name for name in head.listdir(below))
            return list(islice((name for name in names if name.startswith(incomplete)), _COMPLETIONS_MAX))

        return _completed(ctx, look)


REFERENCE = Reference()
STATE_PATH = StatePath()
BRANCH_NAME = BranchName()

# --- options that several commands have ---


def branch_option(function: F) -> F:
    return click.option(
        "--branch", "-b", default=BRANCH_DEFAULT, show_default=True, type=BRANCH_NAME, metavar="NAME",
        help="The branch.",
    )(function)  # fmt: skip


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Report in JSON.")(function)


def json_lines_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Report in JSON, an object a line.")(function)


def at_option(function: F) -> F:
    return click.option(
        "--at", type=REFERENCE, metavar="REFERENCE", help="Another state than the branch's head."
    )(function)


def message_option(function: F) -> F:
    return click.option("--message", "-m", default="", metavar="TEXT", help="What the commit says.")(function)


def resolve_option(function: F) -> F:
    return click.option(
        "--resolve", "resolvers", multiple=True, metavar="[PATTERN=]RESOLVER",
        help="What decides where both sides changed a path: ours, theirs, sum, max, min, union, append or text. May be "
        "given several times; the first whose PATTERN (hits/*, **/log) matches decides.",
    )(function)  # fmt: skip


def rules(given: Sequence[str]) -> dict[str, Resolver] | None:
    """PATTERN=RESOLVER as the library takes it; a RESOLVER alone is for all that no other PATTERN has."""
    rules: dict[str, Resolver] = {}
    alone: dict[str, Resolver] = {}
    for each in given:
        pattern, _, name = each.rpartition("=")
        (rules if pattern else alone)[pattern or "**"] = cast(Resolver, name)
    return {**rules, **alone} or None
