"""Tasks: what is looked for, who judges it, and what may be tried; and a task as an environment of a search.

    EditEnvironment's state     tree    the source tree, a nested state
                                depth   how many edits were made

The tree by itself is a state, so that the judge knows it again whichever edits led there; two orders of the same edits
are one state of the search.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from ... import Snapshot, Workspace
from .edit import Edit, edited
from .judge import Judge, Verdict
from .scratch import Scratch, scratch_of_thread

_PROPOSALS_MAX = 4096  # states whose proposals a process keeps
Propose = Callable[[Snapshot, Verdict], Iterable[Edit]]


@dataclass(frozen=True)
class Task:
    """What to search for. Pickles if its functions are those of modules.

    judge: gives scores.
    propose: what may be tried in a state, given the judge's verdict on it (whose output says, for instance, which test
        fails); the most promising first. The same answer for the same state, in every process. May be empty.
    depth_max: how many edits may follow each other.
    solved: the score from which on nothing better is looked for.
    prior_logits: how promising each of these edits is, before a softmax; for tree search. None: all alike.
    ignore: patterns of what edits that work in a directory leave there, and is no part of a state.
    """

    judge: Judge
    propose: Propose
    depth_max: int = 3
    solved: float = 1.0
    prior_logits: Callable[[Snapshot, Sequence[Edit]], Sequence[float]] | None = None
    ignore: tuple[str, ...] = ("**/__pycache__/", "**/.pytest_cache/")

    def scratch(self) -> Scratch:
        """This thread's own directory."""
        return scratch_of_thread(self.judge.root, self.judge.prefix, self.judge.keep)

    def edited(self, state: Snapshot, edit: Edit) -> Snapshot:
        """A state after an edit. Raises ValueError or KeyError if the edit does not fit."""
        return edited(state, edit, self.scratch, self.judge.prefix, self.ignore)

    def proposals(self, state: Snapshot) -> Sequence[Edit]:
        """What may be tried in a state: nothing in one that is solved."""
        verdict = self.judge(state)
        return () if verdict.score >= self.solved else tuple(self.propose(state, verdict))


class EditEnvironment:
    """A task as an environment for ``helios_shm.mcts.Search``, of one player, whose actions are edits.

    A state's return, when it is solved, at the greatest depth or without proposals, is the judge's score of its tree;
    so is the estimate of any other. Edits that do not fit lead to the same tree one deeper.
    """

    num_players = 1

    def __init__(self, task: Task) -> None:
        self.task = task
        self._proposals: dict[str, Sequence[Edit]] = {}
        if task.prior_logits is not None:
            self.prior_logits = self._prior_logits

    def root(self, tree: Snapshot) -> Snapshot:
        """The state in which a search of a source tree begins."""
        workspace = tree.engine.empty.fork()
        workspace.put("tree", tree)
        workspace["depth"] = b"0"
        return workspace.commit().snapshot

    def tree(self, state: Snapshot | Workspace) -> Snapshot:
        """The source tree of a state."""
        engine = state.base.engine if isinstance(state, Workspace) else state.engine
        return engine.snapshot(state["tree"].hex())

    def legal_actions(self, state: Snapshot) -> Sequence[Edit]:
        return self._proposed(self.tree(state))

    def apply(self, state: Workspace, action: Edit) -> None:
        tree = self.tree(state)
        with contextlib.suppress(ValueError, KeyError):
            tree = self.task.edited(tree, action)
        state.put("tree", tree)
        state["depth"] = str(int(state["depth"]) + 1).encode()

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        tree = self.tree(state)
        ended = int(state["depth"]) >= self.task.depth_max or not self._proposed(tree)
        return (self.task.judge(tree).score,) if ended else None

    def _proposed(self, tree: Snapshot) -> Sequence[Edit]:
        """Asked for when a state is entered, and again when it is walked on from: made once."""
        known = self._proposals.get(tree.id)
        if known is None:
            if len(self._proposals) >= _PROPOSALS_MAX:
                self._proposals.clear()
            known = self._proposals[tree.id] = self.task.proposals(tree)
        return known

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        """The judge's score: what a tree is worth as it is."""
        return (self.task.judge(self.tree(state)).score,)

    def _prior_logits(self, state: Snapshot, actions: Sequence[Edit]) -> Sequence[float]:
        assert self.task.prior_logits is not None
        return self.task.prior_logits(self.tree(state), actions)

    def action_name(self, action: Edit) -> str:
        return str(action)
