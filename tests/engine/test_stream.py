"""Pieces on their way to a reader who may be slow."""

from anysize.engine.request import Pick, Piece
from anysize.engine.stream import TextStream


def test_what_is_unread_joins_in_order_one_piece_an_answer():
    stream = TextStream(lambda: None)
    for sample, text, token in ((0, "a", 1), (1, "x", 2), (0, "b", 3), (0, "c", 4), (1, "y", 5)):
        stream.push(Piece(sample, text, (Pick(token),)))

    assert stream.take() == [Piece(0, "abc", (Pick(1), Pick(3), Pick(4))), Piece(1, "xy", (Pick(2), Pick(5)))]
    assert stream.take() == []
    stream.push(Piece(0, "d"))
    assert stream.take() == [Piece(0, "d")]


def test_a_reader_is_woken_once_for_everything_that_it_has_not_read():
    woken: list[int] = []
    stream = TextStream(lambda: woken.append(len(woken)))
    for sample in (0, 1, 0):
        stream.push(Piece(sample, "a"))
    assert len(woken) == 1
    stream.take()
    stream.push(Piece(1, "b"))
    assert len(woken) == 2
