"""A document that is edited, taken back, done again, looked at as it was, and tried otherwise.

    python -m examples.time_travel [STORE]

Nothing that was committed is lost: undo and redo are commits as well, so the log tells all of it, a sequence number and
a point in time both lead to a state, a tag gives one a name, and a branch goes on from any of them.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import helios_shm
from helios_shm import Branch, codecs

DRAFTS = ["a cat", "a black cat", "a black cat sleeps"]


def write(document: Branch, text: str, message: str) -> None:
    with document.transaction(message) as workspace:
        workspace.view(codec=codecs.text)["text"] = text


def text_of(state: helios_shm.Snapshot) -> str:
    return state.view(codec=codecs.text)["text"]


def main(path: str | None = None) -> None:
    with helios_shm.open(path) as engine:
        document = engine.branch("document")
        for number, draft in enumerate(DRAFTS, start=1):
            write(document, draft, f"draft {number}")
        finished = datetime.now(UTC)
        engine.tag("sent", document.head)

        document.undo()
        document.undo()
        print(f"two steps back: {text_of(document.head)}")
        document.redo()
        print(f"one forward:    {text_of(document.head)}")
        write(document, "a black dog", "changed my mind")
        print(f"as it was sent: {text_of(engine.snapshot('sent'))}")
        assert document.at(finished).message == "draft 3"
        assert document.at(1).snapshot == engine.snapshot("document@1")

        other = engine.branch("other", at=engine.snapshot("sent"))
        write(other, "a black cat sleeps well", "went on from there")
        document.restore(other.head, "took the other one")
        print(f"at the end:     {text_of(document.head)}")
        for commit in reversed(list(document.log(path="text"))):
            print(f"  {commit.sequence}  {commit.message}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
