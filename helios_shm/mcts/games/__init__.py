"""Environments for the games and tasks of other packages, each an extra of helios-shm.

    chess.py        Chess        python-chess                              pip install "helios-shm[chess]"
    open_spiel.py   OpenSpiel    OpenSpiel: its sequential games of perfect information       [open_spiel]
    gymnasium.py    Gymnasium    Gymnasium: its tasks with discrete actions                   [gymnasium]
    pettingzoo.py   PettingZoo   PettingZoo: games in which agents act in turn                [pettingzoo]

    environment.root(engine)  ->  Snapshot  ->  Search(environment, root)

What they have in common:

- Equal states are equal snapshots, whichever moves led there; what the game's rules do not look at is no part of
  them.
- An environment pickles, and is the same in every process. The objects of its package that it has decoded from the
  last states are kept in the process that decoded them, since a search asks for the actions, the end and a playout of
  one state one after the other.
- A playout goes on in the package's own object, where that is faster than workspaces.

This module imports none of them, so that each can be missing. Their modules have the names of the packages that they
are for; an absolute ``import chess`` in one of them is the package.
"""
