"""One request from prompt to last token, against transformers' own `generate`."""

from functools import cache
from typing import Any

import pytest
from fakes import ARCHITECTURES, WatchedFamily, tiny_bank
from models import WatchedModel, greedy, running

from anysize.engine.answer import end_tokens
from anysize.engine.engine import StepReport
from anysize.engine.request import Completion, GenerationRequest, Sampling
from anysize.family.family import Size

PROMPTS = ("a", "The sea is", "日本 \x00 zz", "long " * 20)


@cache
def family(architecture: str = "llama") -> WatchedFamily:
    return WatchedFamily(tiny_bank(architecture, seed=3))


@cache
def endless() -> WatchedFamily:
    return WatchedFamily(tiny_bank("llama", seed=3), endless=True)


def ids_of(text: str) -> list[int]:
    return family().tokenizer(text).input_ids


def request(size: Size, text: str = "The sea is", **sampling: Any) -> GenerationRequest:
    given = {"max_tokens": 12, **sampling}
    return GenerationRequest(id="gen-1", prompt_ids=ids_of(text), size=size, sampling=Sampling(**given))


def run(family: WatchedFamily, one: GenerationRequest, *, chunk: int = 512, **given: Any) -> Completion:
    model = WatchedModel(family)
    with running(family, model, prefill_chunk_tokens=chunk, max_step_tokens=512, **given) as engine:
        completion = engine.submit(one).result(timeout=60)
    assert model.used_pages == 0
    return completion


@cache
def references(architecture: str) -> dict[tuple[str, str], list[int]]:
    served = family(architecture)
    ends = sorted(end_tokens(served))
    asked = [(size, prompt) for size in served.ladder for prompt in PROMPTS]
    return {(size.id, prompt): greedy(served, request(size, prompt), ends=ends) for size, prompt in asked}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("chunk", [512, 3], ids=["whole", "chunked"])
def test_greedy_text_of_every_size_in_one_batch_is_that_of_transformers_alone(architecture: str, chunk: int):
    served = family(architecture)
    requests = [request(size, prompt) for size in served.ladder for prompt in PROMPTS]
    limits = {"prefill_chunk_tokens": chunk, "max_step_tokens": 100, "max_running_requests": len(requests)}
    with running(served, WatchedModel(served), **limits) as engine:
        futures = [engine.submit(one) for one in requests]
        completions = [future.result(timeout=120) for future in futures]
    for completion, (asked, wanted) in zip(completions, references(architecture).items(), strict=True):
        assert completion.token_ids == wanted, asked
        assert completion.text == served.tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_an_end_token_stops_the_answer_and_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch):
    one = request(family().teacher, max_tokens=12)
    free = greedy(family(), one)
    end = free[5]  # whatever the model says sixth becomes the end
    monkeypatch.setattr(family().bank.teacher.generation_config, "eos_token_id", [end, 2])

    completion = run(family(), one)

    assert completion.finish_reason == "stop"
    assert completion.token_ids == free[: free.index(end)] == greedy(family(), one, ends=[end, 2])


def test_end_tokens_are_those_of_the_model_and_the_tokenizer(monkeypatch: pytest.MonkeyPatch):
    config = family().bank.teacher.generation_config
    for named, wanted in ((7, {7, 2}), ([7, 8], {7, 8, 2}), (None, {2})):
        monkeypatch.setattr(config, "eos_token_id", named)
        assert end_tokens(family()) == wanted


@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_max_tokens_ends_the_answer_with_no_step_too_many(max_tokens: int):
    before = endless().steps
    completion = run(endless(), request(endless().teacher, max_tokens=max_tokens))
    assert (completion.finish_reason, len(completion.token_ids)) == ("length", max_tokens)
    assert endless().steps - before == max_tokens  # one for the prompt, one for each token but the last


def test_a_stop_string_ends_the_answer_at_once():
    # A random model says few whole characters in a row; any whole one will do.
    whole = run(endless(), request(endless().teacher, max_tokens=40)).text
    stop = next(char for char in whole[2:] if char != "\ufffd" and char not in whole[:2])
    completion = run(endless(), request(endless().teacher, max_tokens=40, stop=("never said", stop)))
    assert completion.finish_reason == "stop"
    assert completion.text == whole[: whole.index(stop)]
    assert len(completion.token_ids) < 40


def test_a_seeded_sample_is_the_same_each_time_and_of_any_chunk_length():
    def text(chunk: int, seed: int) -> str:
        return run(endless(), request(endless().teacher, "long " * 9, temperature=1.0, seed=seed), chunk=chunk).text

    assert text(512, seed=1) == text(512, seed=1) == text(4, seed=1)
    assert text(512, seed=1) != text(512, seed=2)


@pytest.mark.parametrize("max_tokens", [1, 2, 9])
def test_times_are_in_order(max_tokens: int):
    timing = run(endless(), request(endless().teacher, max_tokens=max_tokens)).timing
    assert 0 <= timing.queue_ms <= timing.ttft_ms <= timing.total_ms
    assert (timing.tpot_ms is None) == (max_tokens == 1)
    if timing.tpot_ms is not None:
        assert 0 < timing.tpot_ms * (max_tokens - 1) <= timing.total_ms - timing.ttft_ms


def test_each_step_is_reported():
    reports: list[StepReport] = []
    one = request(endless().teacher, "x" * 20, max_tokens=5)
    run(endless(), one, chunk=8, on_step=reports.append)
    assert [report.tokens for report in reports] == [8, 8, 4, 1, 1, 1, 1]
    assert all(report.answers == 1 and report.duration_s > 0 for report in reports)


@pytest.mark.parametrize("cancel_at", [0, 1, 2, 3, 4, 7])
def test_cancelling_stops_before_the_next_step(cancel_at: int):
    served = WatchedFamily(endless().bank, endless=True)
    one = request(served.teacher, "x" * 24, max_tokens=50)  # three steps of prefill, then decode

    def cancel(_rows: object) -> None:
        if served.steps == cancel_at:
            one.cancelled.set()

    served.before_step = cancel
    if cancel_at == 0:
        one.cancelled.set()
    completion = run(served, one, chunk=8)

    assert completion.finish_reason == "cancelled"
    assert served.steps == cancel_at
    assert len(completion.token_ids) == max(0, cancel_at - 2)  # the step it came in still gave its token
    timing = completion.timing
    assert 0 <= timing.queue_ms <= timing.ttft_ms <= timing.total_ms
