"""A chess position as the keys of a state.

    board/e4         "white knight"     one key for each occupied square
    play/turn        "white"
    play/castling    "KQkq", "-"
    play/ep          "e3" only where a capture en passant is legal, else "-"
    play/plies_left  how many plies are left to mate in; odd: the attacker is to move

Invariants: two positions in which the same moves are possible and as many plies are left are equal maps, so
that their snapshots are equal and move orders meet. No move counters. A move changes two to six of the keys.
Keys outside `board/` and `play/` are left as they are: they tell which problem this is.

Used by the search (for the root) and by the workers. Plain chess and mappings: it knows no store.
"""

from collections.abc import Mapping, MutableMapping

import chess

_PIECE_NAMES = {
    chess.Piece(kind, color): f"{chess.COLOR_NAMES[color]} {chess.piece_name(kind)}".encode()
    for kind in chess.PIECE_TYPES
    for color in chess.COLORS
}
_PIECES = {name: piece for piece, name in _PIECE_NAMES.items()}
_SQUARE_KEYS = [f"board/{name}" for name in chess.SQUARE_NAMES]
_SQUARES = {key: square for square, key in enumerate(_SQUARE_KEYS)}


def encode(board: chess.Board, plies_left: int) -> dict[str, bytes]:
    """The keys of `board/` and `play/` for this position."""
    state = {_SQUARE_KEYS[square]: _PIECE_NAMES[piece] for square, piece in board.piece_map().items()}
    ep_square = board.ep_square if board.has_legal_en_passant() else None
    state["play/turn"] = chess.COLOR_NAMES[board.turn].encode()
    state["play/castling"] = board.castling_xfen().encode()
    state["play/ep"] = (chess.SQUARE_NAMES[ep_square] if ep_square is not None else "-").encode()
    state["play/plies_left"] = str(plies_left).encode()
    return state


def decode(state: Mapping[str, bytes]) -> tuple[chess.Board, int]:
    """The position in `state`, and its plies left."""
    board = chess.Board(None)
    board.set_piece_map({_SQUARES[key]: _PIECES[name] for key, name in state.items() if key in _SQUARES})
    board.turn = state["play/turn"] == b"white"
    board.set_castling_fen(state["play/castling"].decode())
    ep_square = state["play/ep"].decode()
    board.ep_square = None if ep_square == "-" else chess.parse_square(ep_square)
    return board, int(state["play/plies_left"])


def write(state: MutableMapping[str, bytes], before: Mapping[str, bytes], after: Mapping[str, bytes]) -> None:
    """Turn `before` into `after` within `state`, touching only what differs."""
    for key in before.keys() - after.keys():
        del state[key]
    for key, value in after.items():
        if before.get(key) != value:
            state[key] = value
