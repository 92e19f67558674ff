"""Names of branches and tags, as users write them and as the store has them.

A tag is a branch that nobody commits to: its one commit is the snapshot that it names. It stands in the same table
under TAG + its name, which no branch can have: their names hold no control characters.

    branch "main"   ->   "main"              tag "v1"   ->   "\\x01tag/v1"
"""

from __future__ import annotations

from typing import Final

from . import config

TAG: Final = "\x01tag/"
_TAG_NAME_BYTES_MAX: Final = config.BRANCH_NAME_BYTES_MAX - len(TAG)


def branch_name(name: str) -> str:
    """A branch's name as the store has it. Raises TypeError or ValueError for what cannot be one."""
    return _checked("branch", name, config.BRANCH_NAME_BYTES_MAX)


def tag_name(name: str) -> str:
    """A tag's name as the store has it. Raises TypeError or ValueError for what cannot be one."""
    return TAG + _checked("tag", name, _TAG_NAME_BYTES_MAX)


def is_tag(stored: str) -> bool:
    return stored.startswith(TAG)


def title(stored: str) -> str:
    """What a message calls the branch or tag that the store has under this name."""
    return f"tag {stored[len(TAG) :]!r}" if is_tag(stored) else f"branch {stored!r}"


def _checked(what: str, name: str, bytes_max: int) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a {what} name is a str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"the {what} name holds a lone surrogate: it is no Unicode text") from None
    if not 0 < size <= bytes_max:
        raise ValueError(f"a {what} name has 1..{bytes_max} bytes of UTF-8, not {size}")
    if any(ord(character) < 32 or character in "\x7f@" for character in name):
        raise ValueError(
            f"{what} name {name!r} holds a control character or '@', which separates a sequence number"
        )
    return name
