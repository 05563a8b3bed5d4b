"""An answer in the making and the times of a request, by a clock that the test holds."""

from functools import cache

import pytest
from fakes import WatchedFamily, tiny_bank

from anysize.engine.answer import Answer
from anysize.engine.request import GenerationRequest, Pick, Sampling, Timing
from anysize.engine.ticket import Ticket

END = 99
LETTER = 70


@cache
def family() -> WatchedFamily:
    return WatchedFamily(tiny_bank("llama"))


def ticket_of(*answers: list[tuple[float, int]], started_s: float | None = 10.5) -> Ticket:
    """A ticket that arrived at 10 s, with answers whose tokens came at given times."""
    request = GenerationRequest(
        id="x", prompt_ids=[3], size=family().teacher, sampling=Sampling(max_tokens=9), samples=len(answers)
    )
    ticket = Ticket.of(request, None, 10.0)
    ticket.started_s = started_s
    for sample, tokens in enumerate(answers):
        if tokens:
            ticket.answers[sample] = Answer(request, sample, family(), frozenset({END}))
        for now_s, token_id in tokens:
            ticket.answers[sample].add(Pick(token_id), request.size, now_s)
    return ticket


@pytest.mark.parametrize(
    ("answers", "first_ms", "each_ms"),
    [
        ([[(12, LETTER), (13, LETTER), (15, LETTER)]], 2000, 1500),
        ([[(12, LETTER), (13, LETTER), (15, LETTER), (19, END)]], 2000, 1500),
        ([[(12, LETTER), (13, LETTER), (15, LETTER)], [(11, LETTER), (14, LETTER)]], 1000, 2000),
        ([[(12, LETTER), (16, LETTER)], [(13, LETTER)], []], 2000, 4000),
        ([[(12, LETTER)]], 2000, None),
        ([[(12, END)]], 2000, None),
        ([[(12, LETTER), (17, END)]], 2000, None),
        ([[]], 10_000, None),
    ],
    ids=["one", "end token", "two", "unlike", "single token", "end at once", "end second", "none"],
)
def test_times_count_from_arrival_and_between_the_tokens_of_an_answer(
    answers: list[list[tuple[float, int]]], first_ms: float, each_ms: float | None
):
    timing = ticket_of(*answers).completion(20.0).timing

    assert timing == Timing(queue_ms=500, ttft_ms=first_ms, tpot_ms=each_ms, total_ms=10_000)


def test_a_request_that_never_started_spent_its_time_in_the_queue():
    timing = ticket_of([], started_s=None).completion(20.0).timing

    assert timing == Timing(queue_ms=10_000, ttft_ms=10_000, tpot_ms=None, total_ms=10_000)
