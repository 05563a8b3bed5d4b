"""The real clients of OpenAI and LangChain against the service."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fakes import Gate, long_winded_family
from langchain_openai import ChatOpenAI
from serving import RunningService, serving

MESSAGES: Any = [{"role": "user", "content": "What is the sea?"}]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["a", "b"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["kind", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def served() -> Iterator[RunningService]:
    with serving(long_winded_family()) as service:
        yield service


@pytest.fixture(scope="module")
def client(served: RunningService) -> Iterator[openai.OpenAI]:
    with client_of(served) as client:
        yield client


def client_of(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=30)


def extras(answer: Any) -> dict[str, Any]:
    return answer.model_extra["anysize"]


def test_models_are_the_family_and_its_sizes(client: openai.OpenAI, served: RunningService):
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {"tiny"} | {f"tiny@{size.id}" for size in served.family.ladder}
    for size in served.family.ladder:
        found: Any = client.models.retrieve(f"tiny@{size.id}")
        assert found == listed[f"tiny@{size.id}"]
        assert (found.parameters, found.fraction, found.layers) == (
            size.footprint.parameters,
            size.fraction,
            size.layers,
        )
    by_fraction: Any = client.models.retrieve("tiny@0.7")
    wanted = max((size for size in served.family.ladder if size.fraction <= 0.7), key=lambda size: size.fraction)
    assert by_fraction.variant == wanted.id


@pytest.mark.parametrize(
    "name", ["gpt-4o", "tiny@", "tiny@0", "tiny@1.5", "tiny@nan", "tiny@p99", "tiny@0.01", "tiny/x"]
)
def test_a_model_that_is_none_is_not_found(client: openai.OpenAI, name: str):
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve(name)
    assert (error.value.code, error.value.param) == ("model_not_found", "model")


def test_a_completion_is_the_text_that_generate_gives(client: openai.OpenAI, served: RunningService):
    for model, asked in (("tiny", {}), ("tiny@p4", {"variant": "p4"}), ("tiny@0.7", {"budget": {"fraction": 0.7}})):
        options: dict[str, Any] = {"prompt": "The sea", "max_tokens": 12, "temperature": 0.8, "seed": 3, "n": 2}
        plain = served.generate(**options, **asked).json()
        answer = client.completions.create(model=model, **options)
        assert [choice.text for choice in answer.choices] == [choice["text"] for choice in plain["choices"]]
        assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
        assert extras(answer)["variant"] == plain["variant"]
        assert answer.model == f"tiny@{plain['variant']['id']}"
        assert answer.usage is not None
        assert answer.usage.total_tokens == plain["usage"]["total_tokens"]


def test_several_prompts_and_token_ids_are_answered_in_order(client: openai.OpenAI, served: RunningService):
    ids = [served.family.tokenizer(text).input_ids for text in ("ab", "xyz")]
    options: Any = {"model": "tiny", "max_tokens": 5, "temperature": 0}
    alone = [client.completions.create(prompt=text, **options).choices[0].text for text in ("ab", "xyz")]
    for prompt in (["ab", "xyz"], ids):
        answer = client.completions.create(prompt=prompt, **options)
        assert [(choice.index, choice.text) for choice in answer.choices] == list(enumerate(alone))
    assert client.completions.create(prompt=ids[1], **options).choices[0].text == alone[1]
    echoed = client.completions.create(prompt=["ab", "xyz"], echo=True, **options)
    assert [choice.text for choice in echoed.choices] == ["ab" + alone[0], "xyz" + alone[1]]
    stream = client.completions.create(prompt=["ab", "xyz"], stream=True, **options)
    texts = ["", ""]
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == alone


def test_logprobs_of_a_completion_are_those_of_generate(client: openai.OpenAI, served: RunningService):
    options: dict[str, Any] = {"prompt": "abc", "max_tokens": 6, "temperature": 0, "logprobs": 2}
    plain = served.generate(**options).json()["logprobs"]
    logprobs = client.completions.create(model="tiny", **options).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [one["token"] for one in plain]
    assert logprobs.token_logprobs == [one["logprob"] for one in plain]
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:place])) for place in range(6)]
    assert logprobs.top_logprobs is not None
    for top, one in zip(logprobs.top_logprobs, plain, strict=True):
        assert max(top.values()) == max(likely["logprob"] for likely in one["top"])


def test_a_chat_and_its_logprobs_are_those_of_generate(client: openai.OpenAI, served: RunningService):
    plain = served.generate(messages=MESSAGES, max_tokens=6, temperature=0, logprobs=2).json()
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": MESSAGES[0]["content"]}]}]
    for messages in (MESSAGES, parts):
        answer = client.chat.completions.create(
            model="tiny", messages=messages, max_completion_tokens=6, temperature=0, logprobs=True, top_logprobs=2
        )
        choice = answer.choices[0]
        assert (choice.message.role, choice.message.content) == ("assistant", plain["text"])
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        for said, one in zip(choice.logprobs.content, plain["logprobs"], strict=True):
            assert (said.token, said.logprob) == (one["token"], one["logprob"])
            assert [top.logprob for top in said.top_logprobs] == [top["logprob"] for top in one["top"]]


def test_a_streamed_chat_is_the_plain_one_in_pieces(client: openai.OpenAI):
    options: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 9, "temperature": 1.1, "seed": 5, "n": 2}
    plain = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    texts: list[str] = ["", ""]
    reasons: list[str | None] = [None, None]
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in plain.choices]
    assert reasons == ["length", "length"]
    assert [chunk.choices[0].delta.role for chunk in chunks[:2]] == ["assistant"] * 2
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.total_tokens == plain.usage.total_tokens
    assert extras(chunks[-1])["variant"]["id"] == "teacher"
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stop_string_ends_a_chat(client: openai.OpenAI):
    options: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 40, "temperature": 1, "seed": 2}
    text = client.chat.completions.create(**options).choices[0].message.content or ""
    stop = next(letter for letter in text[3:] if letter.isascii() and letter not in text[:3])
    choice = client.chat.completions.create(**options, stop=[stop]).choices[0]
    assert (choice.message.content, choice.finish_reason) == (text[: text.index(stop)], "stop")


def test_a_budget_beside_the_model_chooses_the_size(client: openai.OpenAI):
    options: Any = {"messages": MESSAGES, "max_tokens": 1, "extra_body": {"budget": {"fraction": 0.7}}}
    assert client.chat.completions.create(model="tiny", **options).model == "tiny@p4"
    assert client.chat.completions.create(model="tiny@0.65", **options).model == "tiny@student"
    with pytest.raises(openai.BadRequestError, match="not both"):
        client.chat.completions.create(model="tiny@teacher", **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logit_bias", {"1": 1}),
        ("frequency_penalty", 0.5),
        ("temperature", -1),
        ("seed", "x"),
        ("store", True),
        ("temprature", 1),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(client: openai.OpenAI, field: str, value: Any):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"max_tokens": 2, field: value})
    assert error.value.param == field
    assert error.value.type == "invalid_request_error"


def test_what_changes_nothing_is_taken(client: openai.OpenAI):
    harmless: dict[str, Any] = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "logit_bias": None,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "tool_choice": "none",
        "n": None,
        "stop": None,
    }
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1, extra_body=harmless)
    assert answer.choices[0].finish_reason == "length"


def test_a_full_queue_is_a_rate_limit():
    with serving(long_winded_family(), max_running_requests=1, max_queued_requests=1) as service:
        gate = Gate()
        service.family.before_step = gate
        with client_of(service) as client, pytest.raises(openai.RateLimitError) as error:
            client.completions.create(model="tiny", prompt=["a", "b", "c", "d"], max_tokens=2)
        gate.open()
    assert error.value.code == "overloaded"


def test_a_schema_is_kept_plain_and_streamed(client: openai.OpenAI):
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    options: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 60, "n": 4, "seed": 1}
    plain = client.chat.completions.create(**options, response_format=wanted)
    for choice in plain.choices:
        value = json.loads(choice.message.content or "")
        assert set(value) == {"kind", "count"}
        assert value["kind"] in ("a", "b")
        assert 0 <= value["count"] <= 9
        assert choice.finish_reason == "stop"
    texts = [""] * 4
    for chunk in client.chat.completions.create(**options, response_format=wanted, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in plain.choices]


def test_langchain_invokes_and_streams(served: RunningService):
    model = ChatOpenAI(
        model="tiny@0.7",
        base_url=f"{served.url}/v1",
        api_key="none",
        temperature=0,
        max_tokens=8,  # pyright: ignore[reportCallIssue]
        max_retries=0,
    )
    answer = model.invoke("What is the sea?")
    assert answer.response_metadata["model_name"] == "tiny@p4"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 8
    assert "".join(str(chunk.content) for chunk in model.stream("What is the sea?")) == answer.content
