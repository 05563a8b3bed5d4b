"""The way of a request's text from the model's thread to one reader, who may be slow."""

from collections.abc import Callable
from threading import Lock

from anysize.engine.request import Piece


class TextStream:
    """Pieces that wait for their reader. Pushing never blocks.

    Unread pieces of one answer join into one, so what waits is bounded by the answers themselves, however slow the
    reader, and the model never waits for anybody.

    Args:
        wake: called from the pushing thread when there is something to read again; must not block.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = Lock()
        self._unread: dict[int, Piece] = {}

    def push(self, piece: Piece) -> None:
        """Add a piece."""
        with self._lock:
            was_empty = not self._unread
            before = self._unread.get(piece.sample)
            if before is not None:
                piece = Piece(piece.sample, before.text + piece.text, before.picks + piece.picks)
            self._unread[piece.sample] = piece
        if was_empty:
            self._wake()

    def take(self) -> list[Piece]:
        """Everything unread, at most one piece an answer."""
        with self._lock:
            pieces = list(self._unread.values())
            self._unread.clear()
        return pieces
