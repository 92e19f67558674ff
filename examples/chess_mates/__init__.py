"""Forced mates found by parallel Monte Carlo tree search, every node of the tree a snapshot.

    __main__ > cli   options, signals, exit code     report     progress while it runs, the closing table
               |
             runner  the pool, several searches in flight at once
               |
       +-------+--------+
     search           worker      search: the tree, its statistics and proofs (one process)
       |                |         worker: fork, move, commit, roll out (many processes)
       +---- position --+         a chess position as the keys of a state
             problems             the checked set, problems.epd

Only snapshots (32 bytes and the path of the store), moves and numbers travel between the processes.
"""
