"""The oracle of the kill stages: what was acknowledged, and whether the store still says so.

    pipes of the workers --hear--> Voice: acts begun, acts done         }  Ledger.settle(engine)
    script(seed, worker) -------->  what each act must have left        }     compares with each branch's log

For each shared branch a Book is kept: its commits as far as they were verified, by sequence, and the state that they
add up to. Settling reads what the log has beyond the book. Each new commit must have exactly one author, an act that
was begun, that is not in the book yet and comes after its worker's last one; it must follow its parent, and differ
from it by the edits of that act and by nothing else. So states are verified whole, by induction. What the book has
must stay where it is, and each acknowledged act must be in it, with the sequence and the id that were acknowledged.

A worker begins an act only when the one before it is done: of a dead one, one act at most may have happened without
having been acknowledged, and any other that appears has no author.

When the segment was lost, each branch may have fallen back, but only to an earlier state of the book, and not behind
what was acknowledged as durable.

Nothing here is known to a process that gets killed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import helios_shm
from helios_shm.errors import HeliosError, NotFoundError
from tests.crash.stage import Outcome
from tests.crash.workload import ACK, END, FAILED, INTENT, RECORD, SHARED, Act, mark_of, probe, script

State = dict[str, bytes]
# When a store was opened again, so many of a branch's commits are compared with their parents once more.
AUDITED = 300


@dataclass(frozen=True, slots=True)
class Done:
    """An acknowledgement, as it was said."""

    sequence: int
    id: bytes
    time_ns: int


def apply(state: State, edits: dict[str, bytes | None]) -> set[str]:
    """Change a state by some edits; returns the paths that are different now."""
    changed = {path for path, value in edits.items() if state.get(path) != value}
    for path in changed:
        value = edits[path]
        if value is None:
            del state[path]
        else:
            state[path] = value
    return changed


class Voice:
    """One worker, as the oracle hears it. ``fd``: the reading end of its pipe, not blocking; it is closed at the
    end."""

    def __init__(self, worker: int, fd: int, acts: Iterator[Act] | None) -> None:
        self.worker = worker
        self.fd = fd
        self.begun: list[Act] = []
        self.done: list[Done] = []
        self.durable_acts = 0  # so many of its first acts are durable
        self.lost = False  # the segment was lost since: what was not durable may have gone with it
        self.ended = False
        self.failure = ""
        self._acts = acts
        self._judged = 0

    def hear(self) -> bool:
        """Take in what it has said since. False: its end of the pipe is closed."""
        while self.fd >= 0:
            try:
                data = os.read(self.fd, RECORD.size * 1024)
            except BlockingIOError:
                return True
            if not data:
                return False
            for record in RECORD.iter_unpack(data):
                self._take(*record)
        return False

    def _take(
        self, what: int, durable: int, _: int, act: int, time_ns: int, sequence: int, data: bytes
    ) -> None:
        if what == INTENT:
            if self._acts is not None:
                self.begun.append(next(self._acts))
            assert self.begun[act].number == act == len(self.done)
        elif what == ACK:
            self.done.append(Done(sequence, data, time_ns))
            self.durable_acts = act + 1 if durable else self.durable_acts
        elif what == END:
            self.ended = True
        elif what == FAILED:
            self.failure += data.rstrip(b"\0").decode(errors="replace")

    @property
    def certain(self) -> int:
        """So many of its first acts must be there."""
        return self.durable_acts if self.lost else len(self.done)

    def unjudged(self) -> list[tuple[int, Act, Done]]:
        """What was acknowledged since this was asked last."""
        first, self._judged = self._judged, len(self.done)
        return [(n, self.begun[n], self.done[n]) for n in range(first, self._judged)]

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass
class Book:
    """A shared branch, as far as it was verified."""

    name: str
    ids: list[str] = field(default_factory=list)
    authors: list[tuple[int, int]] = field(default_factory=list)
    sequences: dict[tuple[int, int], int] = field(default_factory=dict)
    last_acts: dict[int, int] = field(default_factory=dict)
    state: State = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Version:
    """A worker's own branch after one of its acts; ``count``: of its commits, 0: it is not there."""

    act: int
    count: int
    state: State


class Ledger:
    """All that is known of one store. ``where`` says in each violation how to come here again."""

    def __init__(self, outcome: Outcome, seed: str, where: str, durable_share: float) -> None:
        self.outcome = outcome
        self.seed = seed
        self.where = where
        self.durable_share = durable_share
        self.voices: dict[int, Voice] = {}
        self.books = {name: Book(name) for name in SHARED}

    # ---- hearing ----

    def listen(self, fd: int, *, tells: bool = True, durable_share: float | None = None) -> Voice:
        """A new worker's voice. ``tells``: it follows its script; else it does what it is told (``told``)."""
        worker = len(self.voices)
        os.set_blocking(fd, False)
        share = self.durable_share if durable_share is None else durable_share
        voice = Voice(worker, fd, script(self.seed, worker, share) if tells else None)
        self.voices[worker] = voice
        return voice

    def told(self, voice: Voice, branch: str, durable: bool) -> Act:
        act = probe(voice.worker, len(voice.begun), branch, durable)
        voice.begun.append(act)
        return act

    def hear(self) -> None:
        for voice in self.voices.values():
            if voice.fd >= 0:
                voice.hear()

    def violate(self, what: str, sentence: str) -> None:
        self.outcome.count(what)
        self.outcome.violate(f"{sentence} ({self.where})")

    # ---- settling, while workers may be at work ----

    def settle(self, engine: helios_shm.Engine, ended: list[Voice]) -> None:
        """Read what is new, and verify it. ``ended``: those who have died since, whose own branches can be judged."""
        self.hear()
        acknowledged = [(voice, *each) for voice in self.voices.values() for each in voice.unjudged()]
        try:
            for book in self.books.values():
                self._continue(book, engine)
            for voice, number, act, done in acknowledged:
                if number < voice.certain:
                    self._find(voice, number, act, done)
            for voice in ended:
                self._judge_failure(voice)
                self._judge_own(engine, voice)
        except HeliosError as error:
            self.violate("unreadable", f"reading what was committed raised {type(error).__name__}: {error}")
        self.outcome.count("acknowledged", len(acknowledged))

    def _continue(self, book: Book, engine: helios_shm.Engine) -> None:
        """Bring a book up to the branch's log."""
        known, fresh = len(book.ids), []
        with suppress(NotFoundError):
            for commit in engine.branch(book.name).log():
                if (commit.sequence or 0) <= known:
                    break
                fresh.append(commit)
            else:
                if known:
                    return self.violate("lost", f"the log of {book.name} has lost its first {known} commits")
        self.hear()  # who is in the log has said before that it begins
        if known and self._moved(book, engine, fresh[-1] if fresh else None):
            return None
        for commit in reversed(fresh):
            if not self._enter(book, commit):
                return None
        return None

    def _moved(self, book: Book, engine: helios_shm.Engine, oldest: helios_shm.Commit | None) -> bool:
        """Is the newest commit of the book no longer where it was?"""
        number = len(book.ids)
        found = (
            oldest.parents[0]
            if oldest is not None and oldest.parents
            else engine.branch(book.name).at(number).snapshot
        )
        if found.id == book.ids[-1]:
            return False
        self.violate(
            "moved", f"commit {number} of {book.name} was {book.ids[-1][:12]} and is {found.id[:12]} now"
        )
        return True

    def _enter(self, book: Book, commit: helios_shm.Commit) -> bool:
        """One commit more. False: it cannot be gone on from."""
        number, snapshot = len(book.ids) + 1, commit.snapshot
        parent = commit.parents[0] if commit.parents else snapshot.engine.empty
        name = f"commit {commit.sequence} of {book.name}"
        if commit.sequence != number or (number > 1 and parent.id != book.ids[-1]):
            self.violate("moved", f"{name} follows commit {number - 1} and is not its child")
            return False
        diff = parent.diff(snapshot)
        paths = {*diff.added, *diff.changed, *diff.removed}
        author = self._author(book, name, snapshot, paths)
        if author is None:
            return False
        expected = apply(book.state, self._edits_of(author))
        if paths != expected or any(
            snapshot[path] != book.state.get(path) for path in paths - set(diff.removed)
        ):
            wrong = sorted(paths ^ expected)[:3]
            self.violate("torn", f"{name} is not what act {author[1]} of worker {author[0]} made it: {wrong}")
        book.ids.append(snapshot.id)
        book.authors.append(author)
        book.sequences[author] = number
        book.last_acts[author[0]] = author[1]
        return True

    def _author(
        self, book: Book, name: str, snapshot: helios_shm.Snapshot, paths: set[str]
    ) -> tuple[int, int] | None:
        """Whose act a commit is: begun, not seen before, after all that were seen of its worker."""
        marks = [path for path in paths if path.startswith("by/")]
        if len(marks) != 1 or marks[0] not in snapshot:
            self.violate("torn", f"{name} has {len(marks)} authors")
            return None
        worker, act = int(marks[0][3:]), int(snapshot[marks[0]])
        voice = self.voices.get(worker)
        assert mark_of(worker) == marks[0]
        if voice is None or act >= len(voice.begun) or voice.begun[act].branch != book.name:
            self.violate("unheard of", f"{name} is act {act} of worker {worker}, which was never begun")
            return None
        if act <= book.last_acts.get(worker, -1):
            self.violate("applied twice", f"{name} is act {act} of worker {worker} again, or comes too late")
            return None
        return worker, act

    def _edits_of(self, author: tuple[int, int]) -> dict[str, bytes | None]:
        return self.voices[author[0]].begun[author[1]].edits

    def _find(self, voice: Voice, number: int, act: Act, done: Done) -> None:
        """An acknowledged act is where it was said to be."""
        if not act.is_shared:
            return
        book = self.books[act.branch]
        sequence = book.sequences.get((voice.worker, number), 0)
        what = f"act {number} of worker {voice.worker} on {act.branch}, acknowledged as {done.id.hex()[:12]}"
        if sequence == 0:
            self.violate("lost", f"{what}, is not in the log")
        elif done.sequence not in (0, sequence) or book.ids[sequence - 1] != done.id.hex():
            self.violate(
                "moved",
                f"{what} with sequence {done.sequence}, is commit {sequence}, {book.ids[sequence - 1][:12]}",
            )

    def _judge_failure(self, voice: Voice) -> None:
        if voice.failure:
            self.violate("failed", f"worker {voice.worker} failed in act {len(voice.done)}: {voice.failure}")

    # ---- a worker's own branches, and what it committed on none ----

    @staticmethod
    def _versions(voice: Voice) -> dict[str, list[Version]]:
        """The versions of each branch of its own, oldest first, with the act that may not have happened as the
        last."""
        versions: dict[str, list[Version]] = {}
        for number, act in enumerate(voice.begun):
            if act.is_shared or not act.branch:
                continue
            known = versions.setdefault(act.branch, [Version(-1, 0, {})])
            now = known[-1]
            state: State = {}
            if act.how != "delete":
                apply(state := dict(now.state), act.edits)
            known.append(Version(number, now.count + 1 if act.how != "delete" else 0, state))
        return versions

    def _judge_own(self, engine: helios_shm.Engine, voice: Voice) -> None:
        """Its own branches are as its acts left them."""
        for name, versions in self._versions(voice).items():
            least = max(i for i, version in enumerate(versions) if version.act < voice.certain)
            try:
                count, state = (
                    len(list(engine.branch(name, create=False).log())),
                    dict(engine.branch(name).head),
                )
            except NotFoundError:
                count, state = 0, {}
            if not any(count == each.count and state == each.state for each in versions[least:]):
                allowed = " or ".join(f"{each.count}" for each in versions[least:])
                self.violate("lost", f"branch {name} has {count} commits, of {allowed}, or another state")

    def _judge_detached(self, engine: helios_shm.Engine, voice: Voice) -> None:
        certain = voice.certain
        for act, done in zip(voice.begun[:certain], voice.done[:certain], strict=True):
            if act.how == "detached" and self._state_of(engine, done.id.hex()) != act.edits:
                self.violate(
                    "lost",
                    f"{act.number} of worker {voice.worker}, on no branch, is not {done.id.hex()[:12]}",
                )

    @staticmethod
    def _state_of(engine: helios_shm.Engine, id: str) -> State | None:
        try:
            return dict(engine.snapshot(id))
        except NotFoundError:
            return None

    # ---- the whole of it, from the disk ----

    def lose_segment(self, voices: Iterable[Voice]) -> None:
        """They have died, and the segment is gone: what was not acknowledged as durable may be gone with it."""
        self.hear()
        for voice in voices:
            voice.lost = True

    def audit(self, engine: helios_shm.Engine) -> None:
        """When all have ended and the store was opened again: everything once more, through another engine."""
        self.hear()
        try:
            for book in self.books.values():
                self._audit_book(engine, book)
            for voice in self.voices.values():
                self._judge_own(engine, voice)
                self._judge_detached(engine, voice)
        except HeliosError as error:
            self.violate("unreadable", f"opened again, reading raised {type(error).__name__}: {error}")

    def _floor(self, book: Book) -> int:
        """Its newest commit that must be there, with all before it."""
        found = book.sequences.items()
        return max(
            (sequence for (worker, act), sequence in found if act < self.voices[worker].certain), default=0
        )

    def _audit_book(self, engine: helios_shm.Engine, book: Book) -> None:
        least = self._floor(book)
        try:
            log = list(engine.branch(book.name, create=False).log())
        except NotFoundError:
            log = []
        log.reverse()
        what = f"{book.name}, opened again,"
        if not least <= len(log) <= len(book.ids):
            return self.violate("lost", f"{what} has {len(log)} commits, of {least} to {len(book.ids)}")
        state: State = {}
        for number, (commit, id, author) in enumerate(zip(log, book.ids, book.authors, strict=False), 1):
            if commit.sequence != number or commit.snapshot.id != id:
                return self.violate(
                    "moved",
                    f"{what} has another commit {number}: {commit.sequence}, {commit.snapshot.id[:12]}",
                )
            changed = apply(state, self._edits_of(author))
            parent = commit.parents[0] if commit.parents else engine.empty
            # From the disk this costs more than to make it: of a long log, a part.
            looked_at = number % (1 + len(log) // AUDITED) == 0
            if looked_at and len(parent.diff(commit.snapshot)) != len(changed):
                self.violate("torn", f"{what} has a commit {number} that changes other paths")
            if number % 97 == 1 and dict(commit.snapshot) != state:
                self.violate("torn", f"{what} has another state at commit {number}")
        if log and dict(log[-1].snapshot) != state:
            self.violate("torn", f"{what} has another state at its head")
        return None
