"""helios_shm.mcts: parallel tree search on shared states."""

from .environment import CHANCE, Environment

__all__ = ["CHANCE", "Environment"]
