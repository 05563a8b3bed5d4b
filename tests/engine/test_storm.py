"""Many requests through few slots: nobody gets a token of anybody else, and nothing is left behind."""

import random
import time
from concurrent.futures import Future
from functools import cache
from typing import Any

import pytest
from fakes import WatchedFamily, tiny_bank
from models import HashModel, eventually, hashed_logits, running

from anysize.engine.request import Completion, GenerationRequest, Piece, Sampling
from anysize.engine.sampler import Sampler, pick


@cache
def family() -> WatchedFamily:
    return WatchedFamily(tiny_bank("llama", teacher_layers=8, kept=(0, 2, 3, 6)), endless=True)


def random_request(chance: random.Random, number: int) -> GenerationRequest:
    options: dict[str, Any] = {"max_tokens": chance.randint(1, 12)}
    if chance.random() < 0.3:
        options |= {"temperature": chance.choice([0.5, 1.0, 2.0]), "seed": chance.randrange(1000)}
        options |= chance.choice([{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}])
    if chance.random() < 0.1:
        options["repetition_penalty"] = 1.5
    if chance.random() < 0.1:
        options["logprobs"] = 2
    if chance.random() < 0.3:
        # Two characters hardly ever come in a row, but the first of them often does.
        options["stop"] = tuple(chance.choice("abcdefgh") + "\x00never" for _ in range(8))
    return GenerationRequest(
        id=f"gen-{number}",
        prompt_ids=[chance.randrange(3, 259) for _ in range(chance.choice([1, 3, 20, 60]))],
        size=chance.choice(family().ladder),
        sampling=Sampling(**options),
        samples=chance.choice([1, 1, 1, 1, 3]),
    )


def expected(request: GenerationRequest, sample: int) -> list[int]:
    """The answer without any engine: one token after another, with the whole sequence looked at each time."""
    sampler = Sampler(request.sampling, request.prompt_ids, sample)
    answer: list[int] = []
    while len(answer) < request.sampling.max_tokens:
        logits_V = hashed_logits(request.size.variant, [*request.prompt_ids, *answer])
        answer.append(pick(logits_V[None], [sampler])[0].token_id)
    return answer


def check(request: GenerationRequest, completion: Completion, pieces: list[Piece]) -> None:
    for sample, choice in enumerate(completion.choices):
        wanted = expected(request, sample)
        if request.cancelled.is_set():
            assert choice.token_ids == wanted[: len(choice.token_ids)]
        else:
            assert choice.token_ids == wanted
            assert choice.finish_reason == "length"
            assert choice.text == family().tokenizer.decode(wanted, skip_special_tokens=True)
            mine = [piece for piece in pieces if piece.sample == sample]
            assert "".join(piece.text for piece in mine) == choice.text
            assert tuple(pick for piece in mine for pick in piece.picks) == choice.picks
            assert len(choice.picks) == (0 if request.sampling.logprobs is None else len(wanted))


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("requests", [600, pytest.param(10_000, marks=pytest.mark.fault)])
def test_every_request_of_a_storm_gets_what_it_gets_alone(requests: int):
    chance = random.Random(requests)
    model = HashModel(pages=200)
    asked: list[tuple[GenerationRequest, Future[Completion], list[Piece]]] = []
    with running(family(), model, max_queued_requests=requests, max_step_tokens=40) as engine:
        for number in range(requests):
            request = random_request(chance, number)
            pieces: list[Piece] = []
            asked.append((request, engine.submit(request, pieces.append), pieces))
            if chance.random() < 0.2:
                chance.choice(asked[-40:])[0].cancelled.set()
            if chance.random() < 0.05:
                time.sleep(0.01)
        for request, future, pieces in asked:
            check(request, future.result(timeout=1200), pieces)
        eventually(lambda: engine.state().running == 0)
        assert (model.free_pages, model.held) == (model.total_pages, [])
    assert model.largest_step <= 40


def test_a_leak_between_requests_would_be_seen():
    """A model that once gives each row another's logits."""

    class Leaky(HashModel):
        def step(self, rows: Any) -> Any:
            logits_RV = super().step(rows)
            return logits_RV.flip(0) if self.steps == 40 else logits_RV

    chance = random.Random(0)
    with running(family(), Leaky(), max_queued_requests=100) as engine:
        asked = [random_request(chance, number) for number in range(60)]
        done = [engine.submit(one).result for one in asked]
        answers = [[choice.token_ids for choice in result(timeout=60).choices] for result in done]
    wanted = [[expected(request, sample) for sample in range(request.samples)] for request in asked]
    wrong = [number for number, answer in enumerate(answers) if answer != wanted[number]]
    assert 1 <= len(wrong) <= 8


def test_a_page_that_is_lost_ends_the_thread_once_nothing_runs(caplog: pytest.LogCaptureFixture):
    caplog.set_level("CRITICAL", logger="anysize.engine.stepper")

    class Forgetful(HashModel):
        def release(self, sequence: Any) -> None:
            super().release(sequence)
            self.free_pages -= 1

    with running(family(), Forgetful()) as engine:
        assert engine.submit(random_request(random.Random(0), 0)).result(timeout=30)
        eventually(lambda: not engine.state().alive)
    assert "KV pages" in caplog.text
