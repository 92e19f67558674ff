"""Chess, by python-chess: a position as the keys of a state.

    board/e4              "white knight"    one key for each occupied square
    play/turn             "white"
    play/castling         "KQkq", "-"; the files of the rooks where Chess960 needs them
    play/ep               "e3" only where a capture en passant is legal, else "-"
    play/halfmove_clock   "12", only if asked for

Invariants: two positions in which the same moves are possible are equal maps, so that move orders meet in one
snapshot. There are no move counters unless they are asked for. A move changes two to six keys. Other keys are left as
they are, and tell states apart: a task can put there what it is about.

A state does not know its past: no draw by repetition is seen, and none by the 75 moves' rule without the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import combinations
from random import Random
from typing import NoReturn

from ... import Engine, Snapshot, Workspace
from .recent import Recent

try:
    import chess
except ImportError as error:
    raise ImportError(
        'helios_shm.mcts.games.chess needs the package chess: pip install "helios-shm[chess]"'
    ) from error

_POSITIONS_KEPT = 2048
_PIECE_NAMES = {
    (kind, color): f"{chess.COLOR_NAMES[color]} {chess.piece_name(kind)}".encode()
    for kind in chess.PIECE_TYPES
    for color in chess.COLORS
}
_PIECES = {name: piece for piece, name in _PIECE_NAMES.items()}
_SQUARE_KEYS = [f"board/{name}" for name in chess.SQUARE_NAMES]
_MASKS = {key: chess.BB_SQUARES[square] for square, key in enumerate(_SQUARE_KEYS)}
_TURNS = [chess.COLOR_NAMES[color].encode() for color in (chess.BLACK, chess.WHITE)]
# Outside of Chess960: the squares of the rooks that may castle, and what is written for them.
_CASTLING_MASKS = {
    "".join(letters).encode() or b"-": sum(rooks)
    for count in range(5)
    for chosen in combinations(
        zip("KQkq", (chess.BB_H1, chess.BB_A1, chess.BB_H8, chess.BB_A8), strict=True), count
    )
    for letters, rooks in [([letter for letter, _ in chosen], [rook for _, rook in chosen])]
}
_CASTLING_TEXTS = {mask: text for text, mask in _CASTLING_MASKS.items()}
_CLOCK = "play/halfmove_clock"
# Pawns are 1; of textbooks since Staunton's. The king is never off the board.
_MATERIAL = {chess.PAWN: 1, chess.KNIGHT: 3, chess.BISHOP: 3, chess.ROOK: 5, chess.QUEEN: 9}
_MATERIAL_MAX = 39.0


class _Position:
    """A decoded position with what is asked of it again and again; nobody changes its board."""

    __slots__ = ("_moves", "board")

    def __init__(self, board: chess.Board) -> None:
        self.board = board
        self._moves: list[chess.Move] | None = None

    @property
    def moves(self) -> list[chess.Move]:
        if self._moves is None:
            self._moves = list(self.board.legal_moves)
        return self._moves


class Chess:
    """The environment of chess. Actions are ``chess.Move``; player 0 is White, player 1 Black; a win is 1, a loss -1.

    chess960: castling by the rules of Chess960.
    halfmove_clock: count the moves since the last capture or move of a pawn, so that the game is a draw after 75 of
        each side; positions with different counts are then different states.
    rollout_plies: a playout ends after so many, with the balance of material between -1 and 1.

    Endings are those of ``chess.Board.outcome()``: mate, stalemate, too little material, and the 75 moves.
    """

    num_players = 2

    def __init__(
        self, *, chess960: bool = False, halfmove_clock: bool = False, rollout_plies: int = 80
    ) -> None:
        if rollout_plies < 0:
            raise ValueError(f"rollout_plies is 0 or more, not {rollout_plies}")
        self.chess960 = chess960
        self.halfmove_clock = halfmove_clock
        self.rollout_plies = rollout_plies
        self._recent: Recent[str, _Position] = Recent(_POSITIONS_KEPT)

    def root(self, engine: Engine, position: chess.Board | str = chess.STARTING_FEN) -> Snapshot:
        """The state of a position, a board or a FEN. Raises ValueError for one that chess does not allow."""
        fen = position if isinstance(position, str) else position.fen()
        board = chess.Board(fen, chess960=self.chess960)
        if not board.is_valid():
            raise ValueError(f"no position of chess: {board.fen()} ({board.status()!r})")
        workspace = engine.empty.fork()
        workspace.update(self.encode_board(board))
        return workspace.commit().snapshot

    def encode_board(self, board: chess.Board) -> dict[str, bytes]:
        """The keys of a position."""
        state: dict[str, bytes] = {}
        _put_squares(state, board, board.occupied)
        state.update(self._play(board))
        return state

    def board(self, state: Snapshot | Workspace) -> chess.Board:
        """The position of a state; the board is the caller's own."""
        return self._position(state).board.copy()

    # --- the environment ---

    def legal_actions(self, state: Snapshot) -> Sequence[chess.Move]:
        return self._position(state).moves

    def apply(self, state: Workspace, action: chess.Move) -> None:
        before = self._position(state)
        if action not in before.moves:
            raise ValueError(f"{action.uci()} is no legal move in {before.board.epd()}")
        after = before.board.copy(stack=False)
        after.push(action)
        _put_squares(state, after, _changed(before.board, after))
        for path, value in self._play(after).items():
            if state[path] != value:
                state[path] = value

    def returns(self, state: Snapshot) -> Sequence[float] | None:
        return _returns(self._position(state))

    def current_player(self, state: Snapshot) -> int:
        return 0 if state["play/turn"] == b"white" else 1

    def rollout(self, state: Snapshot, rng: Random) -> Sequence[float]:
        """Random moves until the end, or ``rollout_plies``."""
        position = self._position(state)
        for _ in range(self.rollout_plies):
            ended = _returns(position)
            if ended is not None:
                return ended
            board = position.board if position.board.move_stack else position.board.copy(stack=False)
            board.push(position.moves[rng.randrange(len(position.moves))])
            position = _Position(board)
        ended = _returns(position)
        return balance(position.board) if ended is None else ended

    def encode(self, state: Snapshot) -> bytes:
        """The position in Extended Position Description."""
        return self._position(state).board.epd().encode()

    def action_name(self, action: chess.Move) -> str:
        return action.uci()

    # --- positions and states ---

    def _position(self, state: Snapshot | Workspace) -> _Position:
        if not isinstance(state, Snapshot):
            if not isinstance(state, Workspace) or state.edits:
                return _Position(self._decode(state))
            state = state.base
        id = state.id
        return self._recent.get(id) or self._recent.put(id, _Position(self._decode(state)))

    def _decode(self, state: Mapping[str, bytes]) -> chess.Board:
        board = chess.Board(None, chess960=self.chess960)
        masks, colors = [chess.BB_EMPTY] * 7, board.occupied_co
        for path, value in state.items():
            mask = _MASKS.get(path)
            if mask is not None:
                kind, color = _PIECES.get(value) or _refuse_piece(path, value)
                masks[kind] |= mask
                colors[color] |= mask
        _, board.pawns, board.knights, board.bishops, board.rooks, board.queens, board.kings = masks
        board.occupied = colors[chess.WHITE] | colors[chess.BLACK]
        board.turn = state["play/turn"] == b"white"
        castling, ep = state["play/castling"], state["play/ep"].decode()
        if self.chess960 and castling != b"-":
            board.set_castling_fen(castling.decode())
        else:
            board.castling_rights = _castling_mask(castling)
        board.ep_square = None if ep == "-" else chess.parse_square(ep)
        if self.halfmove_clock:
            board.halfmove_clock = int(state[_CLOCK])
        return board

    def _castling(self, board: chess.Board) -> bytes:
        if self.chess960:
            return board.castling_xfen().encode()
        return _CASTLING_TEXTS[board.clean_castling_rights()]

    def _play(self, board: chess.Board) -> dict[str, bytes]:
        ep = board.ep_square if board.has_legal_en_passant() else None
        play = {
            "play/turn": _TURNS[board.turn],
            "play/castling": self._castling(board),
            "play/ep": b"-" if ep is None else chess.SQUARE_NAMES[ep].encode(),
        }
        if self.halfmove_clock:
            play[_CLOCK] = b"%d" % board.halfmove_clock
        return play


def balance(board: chess.Board) -> list[float]:
    """What a position is worth to White and to Black by the pieces alone, between -1 and 1."""
    white = sum(
        worth * (len(board.pieces(kind, chess.WHITE)) - len(board.pieces(kind, chess.BLACK)))
        for kind, worth in _MATERIAL.items()
    )
    value = max(-1.0, min(1.0, white / _MATERIAL_MAX))
    return [value, -value]


def _returns(position: _Position) -> list[float] | None:
    board = position.board
    if not position.moves:
        if not board.is_check():
            return [0.0, 0.0]
        return [-1.0, 1.0] if board.turn == chess.WHITE else [1.0, -1.0]
    if board.is_insufficient_material() or board.halfmove_clock >= 150:
        return [0.0, 0.0]
    return None


def _castling_mask(text: bytes) -> chess.Bitboard:
    try:
        return _CASTLING_MASKS[text]
    except KeyError:
        raise ValueError(f"play/castling holds {text!r}; expected is some of KQkq, or -") from None


def _refuse_piece(path: str, value: bytes) -> NoReturn:
    raise ValueError(f"{path} holds {value!r}, which names no piece; one is 'white knight'")


def _changed(before: chess.Board, after: chess.Board) -> chess.Bitboard:
    """The squares on which two boards differ."""
    return (
        (before.occupied_co[chess.WHITE] ^ after.occupied_co[chess.WHITE])
        | (before.occupied_co[chess.BLACK] ^ after.occupied_co[chess.BLACK])
        | (before.pawns ^ after.pawns)
        | (before.knights ^ after.knights)
        | (before.bishops ^ after.bishops)
        | (before.rooks ^ after.rooks)
        | (before.queens ^ after.queens)
        | (before.kings ^ after.kings)
    )


def _put_squares(state: MutableMapping[str, bytes], board: chess.Board, squares: chess.Bitboard) -> None:
    """Make these squares of a state those of a board."""
    masks: Iterable[int] = chess.scan_forward(squares)
    for square in masks:
        kind = board.piece_type_at(square)
        if kind is None:
            del state[_SQUARE_KEYS[square]]
        else:
            color = bool(board.occupied_co[chess.WHITE] & chess.BB_SQUARES[square])
            state[_SQUARE_KEYS[square]] = _PIECE_NAMES[kind, color]
