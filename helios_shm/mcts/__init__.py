"""Parallel tree search on shared states. ``Search`` is where to begin; docs/SEARCH.md has the whole."""

from .environment import CHANCE, Environment
from .evaluator import Evaluation, Evaluator, EvaluatorError, EvaluatorStats
from .metrics import Metrics
from .search import Result, Search
from .tree import TreeNode
from .trials import Trial

__all__ = [
    "CHANCE",
    "Environment",
    "Evaluation",
    "Evaluator",
    "EvaluatorError",
    "EvaluatorStats",
    "Metrics",
    "Result",
    "Search",
    "TreeNode",
    "Trial",
]
