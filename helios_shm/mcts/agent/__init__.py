"""helios_shm.mcts.agent: search over states that are source trees.

Command     a program with limits; Outcome: what came of it
Scratch     a directory that holds one state after the other, by delta
Judge       state -> score, by a command; each state once
Task        a judge, and what may be tried: Write, Delete, Replace, or any function over a directory
best_of_n   over a task, on processes of its own; EditEnvironment: a task for helios_shm.mcts.Search
"""

from .command import Command, Limit, Outcome
from .edit import Delete, Edit, Replace, Write
from .judge import Judge, Score, Verdict, share_passed, succeeded
from .scratch import Scratch
from .strategies import Found, beam, best_of_n, tournament, tree
from .task import EditEnvironment, Task

__all__ = [
    "Command",
    "Delete",
    "Edit",
    "EditEnvironment",
    "Found",
    "Judge",
    "Limit",
    "Outcome",
    "Replace",
    "Score",
    "Scratch",
    "Task",
    "Verdict",
    "Write",
    "beam",
    "best_of_n",
    "share_passed",
    "succeeded",
    "tournament",
    "tree",
]
