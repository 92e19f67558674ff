"""Forced mates found by helios_shm.mcts: several processes search one tree, every node of it a snapshot.

    __main__ > cli   options, signals, exit code     report     progress while it runs, the closing table
               |
             runner  one search after the other, in slices, until its mate is proven
               |
       +-------+-------+
      mate           proof      mate: the environment: what can be played, how it ends, a playout
       |                        proof: which first moves the tree shows to mate whatever is answered
     problems                   the checked set, problems.epd

The tree, its statistics, the workers and their deaths are the library's: helios_shm.mcts.Search.
"""
