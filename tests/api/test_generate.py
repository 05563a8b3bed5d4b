"""`POST /generate`: what is asked and what is answered."""

from typing import Any

import httpx
import models
import pytest
from serving import RunningService

from anysize.engine.request import GenerationRequest, Sampling
from anysize.family.family import Size

PROMPT = "The sea is"


def answered(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def alone(service: RunningService, size: Size, ids: list[Any], **sampling: Any) -> str:
    """The text that the engine gives without any service or neighbour."""
    one = GenerationRequest(id="x", prompt_ids=ids, size=size, sampling=Sampling(**sampling))
    return models.alone(service.family, one).text


def test_an_answer_has_exactly_the_documented_fields(shared: RunningService):
    answer = answered(shared.generate(prompt=PROMPT, max_tokens=5))
    assert set(answer) == {"id", "text", "finish_reason", "variant", "usage", "timing"}
    assert set(answer["variant"]) == {"id", "parameters", "fraction", "layers", "patched"}
    assert set(answer["usage"]) == {"prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens"}
    assert set(answer["timing"]) == {"queue_ms", "ttft_ms", "tpot_ms", "total_ms"}
    assert 0 <= answer["usage"].pop("cached_tokens") < len(PROMPT)
    assert answer["usage"] == {"prompt_tokens": len(PROMPT), "completion_tokens": 5, "total_tokens": len(PROMPT) + 5}
    assert answer["finish_reason"] == "length"
    timing = answer["timing"]
    assert 0 <= timing["queue_ms"] <= timing["ttft_ms"] <= timing["total_ms"]
    assert timing["tpot_ms"] > 0


def test_a_single_token_has_no_time_between_tokens(shared: RunningService):
    assert answered(shared.generate(prompt=PROMPT, max_tokens=1))["timing"]["tpot_ms"] is None


def test_ids_of_answers_differ(shared: RunningService):
    ids = {answered(shared.generate(prompt=PROMPT, max_tokens=1))["id"] for _ in range(3)}
    assert len(ids) == 3


def test_without_a_budget_the_teacher_answers(shared: RunningService):
    for body in ({}, {"budget": None}, {"budget": {}}, {"variant": None}):
        chosen = answered(shared.generate(prompt=PROMPT, max_tokens=1, **body))["variant"]
        assert (chosen["id"], chosen["fraction"], chosen["layers"]) == ("teacher", 1.0, 8)
        assert chosen["patched"] == [1, 2, 3, 4]


def test_every_size_answers_with_its_own_text(shared: RunningService):
    texts = set()
    ids = shared.family.tokenizer(PROMPT).input_ids
    for size in shared.family.ladder:
        answer = answered(shared.generate(prompt=PROMPT, max_tokens=16, variant=size.id))
        assert answer["variant"] == {
            "id": size.id,
            "parameters": size.footprint.parameters,
            "fraction": size.fraction,
            "layers": size.layers,
            "patched": list(size.variant.patched),
        }
        assert answer["text"] == alone(shared, size, ids, max_tokens=16)
        texts.add(answer["text"])
    assert len(texts) == len(shared.family.ladder)


def test_what_the_ladder_says_a_size_costs_is_a_budget_that_this_size_answers(shared: RunningService):
    with shared.client() as client:
        listed = client.get("/variants").json()["variants"]
        for size in listed:
            for bound, cost in (("parameters", "parameters"), ("fraction", "fraction"), ("memory_bytes", "bytes")):
                body = {"prompt": PROMPT, "max_tokens": 1, "budget": {bound: size[cost]}}
                assert answered(client.post("/generate", json=body))["variant"]["id"] == size["id"]


def test_all_bounds_of_a_budget_bind(shared: RunningService):
    small, middle, *_, large = shared.family.ladder
    budget = {"parameters": large.footprint.parameters, "fraction": small.fraction, "memory_bytes": 1 << 40}
    assert answered(shared.generate(prompt=PROMPT, max_tokens=1, budget=budget))["variant"]["id"] == small.id
    budget = {"parameters": middle.footprint.parameters, "fraction": 1}
    assert answered(shared.generate(prompt=PROMPT, max_tokens=1, budget=budget))["variant"]["id"] == middle.id


def test_a_variant_off_the_ladder_answers_too(shared: RunningService):
    on_ladder = {size.id for size in shared.family.ladder}
    assert "p1" not in on_ladder
    assert answered(shared.generate(prompt=PROMPT, max_tokens=1, variant="p1"))["variant"]["patched"] == [1]


def test_sampling_options_reach_the_sampler(shared: RunningService):
    ids = shared.family.tokenizer(PROMPT).input_ids
    options = {"max_tokens": 12, "temperature": 1.3, "top_p": 0.9, "top_k": 20, "seed": 5}
    wanted = alone(shared, shared.family.teacher, ids, **options)
    assert answered(shared.generate(prompt=PROMPT, **options))["text"] == wanted
    for changed in ({"temperature": 0.0}, {"top_p": 0.1}, {"top_k": 1}, {"seed": 6}):
        assert answered(shared.generate(prompt=PROMPT, **{**options, **changed}))["text"] != wanted


@pytest.mark.parametrize("as_list", [False, True])
def test_a_stop_string_ends_the_answer(shared: RunningService, as_list: bool):
    whole = answered(shared.generate(prompt=PROMPT, max_tokens=40))["text"]
    stop = next(char for char in whole[2:] if char != "\ufffd" and char not in whole[:2])
    answer = answered(shared.generate(prompt=PROMPT, max_tokens=40, stop=[stop, "never"] if as_list else stop))
    assert (answer["text"], answer["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_messages_go_through_the_chat_template(shared: RunningService):
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi!"}]
    ids = shared.family.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert isinstance(ids, list)
    answer = answered(shared.generate(messages=messages, max_tokens=8))
    assert answer["text"] == alone(shared, shared.family.teacher, ids, max_tokens=8)
    assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize("prompt", ["\x00", " ", "\n\n", "日本語 🙂", "e\u0301", "\u202e\ufeff", "a" * 150])
def test_any_text_is_a_prompt(shared: RunningService, prompt: str):
    answer = answered(shared.generate(prompt=prompt, max_tokens=2))
    assert answer["usage"]["prompt_tokens"] == len(prompt.encode())


def test_requests_at_once_get_what_each_gets_alone(shared: RunningService):
    from concurrent.futures import ThreadPoolExecutor

    def text(number: int) -> str:
        size = shared.family.ladder[number % len(shared.family.ladder)]
        return answered(shared.generate(prompt=f"prompt {number}", max_tokens=6, variant=size.id))["text"]

    quiet = [text(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, range(8))) == quiet


def test_options_of_the_sampler_that_are_newer_reach_it_too(shared: RunningService):
    ids = shared.family.tokenizer(PROMPT).input_ids
    options = {"max_tokens": 12, "temperature": 1.3, "min_p": 0.05, "repetition_penalty": 1.4, "seed": 5}
    wanted = alone(shared, shared.family.teacher, ids, **options)
    assert answered(shared.generate(prompt=PROMPT, **options))["text"] == wanted
    for changed in ({"min_p": 0.9}, {"repetition_penalty": 1.0}):
        assert answered(shared.generate(prompt=PROMPT, **{**options, **changed}))["text"] != wanted


def test_several_answers_are_those_of_the_seeds_that_follow(shared: RunningService):
    body = {"prompt": PROMPT, "max_tokens": 8, "temperature": 1.2}
    answer = answered(shared.generate(**body, seed=20, n=3))
    texts = [answered(shared.generate(**body, seed=seed))["text"] for seed in (20, 21, 22)]
    assert [choice["text"] for choice in answer["choices"]] == texts
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert all(set(choice) == {"index", "text", "finish_reason"} for choice in answer["choices"])
    assert answer["text"] == texts[0]
    assert answer["usage"]["completion_tokens"] == 24


def test_logprobs_name_each_token_and_the_likeliest_in_its_place(shared: RunningService):
    answer = answered(shared.generate(prompt=PROMPT, max_tokens=6, logprobs=3))
    tokens = answer["logprobs"]
    assert len(tokens) == 6
    for token in tokens:
        assert set(token) == {"token_id", "token", "logprob", "top"}
        assert token["token"] == shared.family.tokenizer.decode([token["token_id"]])
        assert len(token["top"]) == 3
        assert token["top"][0] == {name: token[name] for name in ("token_id", "token", "logprob")}  # greedy
        assert token["logprob"] <= 0
    assert shared.family.tokenizer.decode([token["token_id"] for token in tokens]) == answer["text"]
    assert "logprobs" not in answered(shared.generate(prompt=PROMPT, max_tokens=2))


def test_the_documented_answer_has_the_fields_that_are_asked_for(shared: RunningService):
    with shared.client() as client:
        described = client.get("/openapi.json").json()
    answer = described["components"]["schemas"]["GenerateOut"]
    assert {"logprobs", "choices"} <= set(answer["properties"])
    assert not {"logprobs", "choices"} & set(answer["required"])
    assert "text/event-stream" in described["paths"]["/generate"]["post"]["responses"]["200"]["content"]
