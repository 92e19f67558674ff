"""Which first moves are proven: the tree has a mate after every answer.

A search gives visits and means, which are no proof. But it takes every answer of the defender to a promising move
sooner or later, and ends in positions whose outcome is known; the proof is then in the tree, and is read out of it.
"""

import chess

from helios_shm.mcts import TreeNode

from .mate import ATTACKER


def proven_moves(root: TreeNode[chess.Move]) -> list[chess.Move]:
    """The moves of the attacker at the root that force the mate. Cost: O(nodes)."""
    shown = {node.state: node for node in root if node.repeats is None and node.state is not None}
    known: dict[str, bool] = {}

    # Plies run out on every path, so that this ends, and nests no deeper than a problem has plies.
    def forced(node: TreeNode[chess.Move]) -> bool:
        full = shown.get(node.state) if node.state is not None else None
        if full is None or full.state is None:
            return False
        if full.state not in known:
            if full.kind == "terminal":
                known[full.state] = full.returns[ATTACKER] > 0
            elif full.player == ATTACKER:
                known[full.state] = any(map(forced, full.children))
            else:
                known[full.state] = full.omitted == 0 and all(map(forced, full.children))
        return known[full.state]

    return [child.action for child in root.children if child.action is not None and forced(child)]
