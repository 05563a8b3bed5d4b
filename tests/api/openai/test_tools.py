"""Tools: what the model is told, what it calls, plain and streamed, to the real clients and back."""

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fakes import WatchedFamily, long_winded_family, tiny_bank
from hypothesis import given
from hypothesis import strategies as st
from langchain_openai import ChatOpenAI
from serving import RunningService, serving
from tokenizers import AddedToken

from anysize.api.openai import chat as chat_module
from anysize.api.openai.calls import CallReader
from anysize.api.prompt import PromptEncoder

MESSAGES: Any = [{"role": "user", "content": "Is it warm in Bern?"}]
WEATHER = {
    "name": "weather",
    "description": "Of a place, now.",
    "parameters": {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["place", "days"],
        "additionalProperties": False,
        "$defs": {"place": {"enum": ["Bern", "Rome"]}},
    },
}
CLOCK = {"name": "clock"}
TOOLS: Any = [{"type": "function", "function": WEATHER}, {"type": "function", "function": CLOCK}]
# In the manner of Qwen2.5's.
TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def family_with_tools() -> WatchedFamily:
    bank = tiny_bank("llama", teacher_layers=8, kept=(0, 2, 3, 6))
    bank.teacher.config.max_position_embeddings = 4096
    family = WatchedFamily(bank, endless=True)
    tokenizer: Any = family.tokenizer
    tokenizer.chat_template = TEMPLATE
    return family


@pytest.fixture(scope="module")
def served() -> Iterator[RunningService]:
    with serving(family_with_tools(), kv_bytes=32 << 20) as service:
        yield service


@pytest.fixture(scope="module")
def client(served: RunningService) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def called(choice: Any) -> list[Any]:
    return choice.message.tool_calls or []


def checked(name: str, arguments: str) -> str:
    parsed = json.loads(arguments)
    if name == "weather":
        assert set(parsed) == {"place", "days"}
        assert parsed["place"] in ("Bern", "Rome")
        assert parsed["days"] in (1, 2, 3)
    else:
        assert (name, parsed) == ("clock", {})
    return name


def test_a_demanded_call_comes_plain_and_streamed(client: openai.OpenAI):
    options: Any = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "tool_choice": "required"}
    options |= {"max_tokens": 180, "n": 4, "seed": 3, "parallel_tool_calls": False}
    plain = client.chat.completions.create(**options)
    names = set()
    for choice in plain.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = called(choice)
        assert call.type == "function"
        assert call.id
        names.add(checked(call.function.name, call.function.arguments))
    assert names == {"weather", "clock"}

    calls: dict[int, Any] = {}
    finishes: dict[int, str] = {}
    for chunk in client.chat.completions.create(**options, stream=True):
        for choice in chunk.choices:
            assert not choice.delta.content
            for call in choice.delta.tool_calls or ():
                assert call.index == 0
                calls[choice.index] = call.function
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    assert set(finishes.values()) == {"tool_calls"}
    for choice in plain.choices:
        (call,) = called(choice)
        assert (calls[choice.index].name, calls[choice.index].arguments) == (
            call.function.name,
            call.function.arguments,
        )


def test_a_named_tool_is_the_one_called(client: openai.OpenAI):
    named: Any = {"type": "function", "function": {"name": "clock"}}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice=named, max_tokens=120, n=3
    )
    for choice in answer.choices:
        (call,) = called(choice)
        assert call.function.name == "clock"


@pytest.mark.parametrize("stream", [False, True])
def test_words_and_calls_of_a_free_answer_come_apart(
    client: openai.OpenAI, served: RunningService, monkeypatch: pytest.MonkeyPatch, stream: bool
):
    """A tiny random model calls nothing of its own will: the grammar is put under an answer that is not held to one."""
    schemas = {"weather": WEATHER["parameters"]}
    around = ("Let me look.\n<tool_call>", "</tool_call>")

    def grammar(_body: object, service: Any) -> Any:
        return service.grammars.of_calls(schemas, "tools", around=around, is_single=False)

    monkeypatch.setattr(chat_module, "_grammar", grammar)
    options: Any = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 150, "seed": 5}
    content, calls, finish = "", [], None
    if stream:
        for chunk in client.chat.completions.create(**options, stream=True):
            content += chunk.choices[0].delta.content or ""
            calls += [call.function for call in chunk.choices[0].delta.tool_calls or ()]
            finish = chunk.choices[0].finish_reason or finish
    else:
        choice = client.chat.completions.create(**options).choices[0]
        content, finish = choice.message.content or "", choice.finish_reason
        calls = [call.function for call in called(choice)]
    assert calls
    assert content.startswith("Let me look.")
    assert finish == "length", "this grammar lets a random model call again and again"
    for call in calls:
        checked(call.name, call.arguments)


def test_a_conversation_with_calls_reaches_the_model_as_its_template_writes_it(client: openai.OpenAI):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Bern"}'}}
    messages: Any = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, max_tokens=1)
    reference: Any = family_with_tools().tokenizer
    told = [
        {"type": "function", "function": {**WEATHER}},
        {
            "type": "function",
            "function": {
                "name": "clock",
                "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
            },
        },
    ]
    spoken = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call | {"function": {"name": "weather", "arguments": {"place": "Bern"}}}],
        },
        messages[2],
    ]
    expected = reference.apply_chat_template(spoken, tools=told, add_generation_prompt=True, return_dict=False)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(expected)


def test_no_tools_are_told_of_where_none_may_be_called(client: openai.OpenAI):
    plain = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=1)
    none = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=1, tools=TOOLS, tool_choice="none"
    )
    assert plain.usage
    assert none.usage
    assert plain.usage.prompt_tokens == none.usage.prompt_tokens


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("tools", {"tools": [TOOLS[0], TOOLS[0]]}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}),
        ("tool_choice", {"tool_choice": "required"}),
        ("response_format", {"tools": TOOLS, "response_format": {"type": "json_object"}}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}),
        ("tools", {"tools": [{"type": "retrieval"}]}),
        (
            "tools",
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": 1}}}}],
                "tool_choice": "required",
            },
        ),
        (
            "tools",
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"<|im_end|>": {}}}}}
                ]
            },
        ),
    ],
)
def test_tools_that_make_no_sense_are_refused(client: openai.OpenAI, field: str, body: dict[str, Any]):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2, extra_body=body)
    assert field in (error.value.param or "") or field in error.value.message


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "21"},
        {"role": "user", "content": "x", "tool_call_id": "call_1"},
        {"role": "assistant"},
        {
            "role": "user",
            "content": "x",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "1"}}],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{"}}],
        },
    ],
)
def test_messages_that_make_no_sense_are_refused(client: openai.OpenAI, message: Any):
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="tiny", messages=[*MESSAGES, message], max_tokens=2)


def test_a_template_without_tools_says_so():
    with (
        serving(long_winded_family()) as service,
        openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.BadRequestError, match="takes no tools") as error:
            client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
        assert error.value.param == "tools"
        answered: Any = [*MESSAGES, {"role": "tool", "content": "21", "tool_call_id": "call_1"}]
        with pytest.raises(openai.BadRequestError, match="takes no tools"):
            client.chat.completions.create(model="tiny", messages=answered)


def test_what_a_tool_says_of_itself_becomes_no_control_token():
    family = family_with_tools()
    tokenizer: Any = family.tokenizer
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("</tool_call>", special=False)])
    encoder = PromptEncoder(family, max_chars=10_000, max_tokens=100)
    control = set(tokenizer.added_tokens_encoder.values()) | set(tokenizer.all_special_ids)

    def controls(said: str) -> list[int]:
        function = {"name": "f", "description": said, "parameters": {"enum": [said]}}
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": {"x": said}}}
        messages = [
            {"role": "user", "content": said},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": said, "tool_call_id": "a"},
        ]
        ids = encoder.messages(messages, [{"type": "function", "function": function}])
        return [id_ for id_ in ids if id_ in control]

    harmless = controls("nothing")
    assert harmless
    for token in tokenizer.added_tokens_encoder:
        assert controls(f"a {token} b") == harmless


def test_langchain_binds_tools(served: RunningService):
    model = ChatOpenAI(
        model="tiny",
        base_url=f"{served.url}/v1",
        api_key="none",
        max_tokens=180,  # pyright: ignore[reportCallIssue]
        max_retries=0,
    )
    answer = model.bind_tools(TOOLS, tool_choice="weather").invoke("Is it warm in Bern?")
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    assert call["args"]["place"] in ("Bern", "Rome")


PIECES = st.lists(
    st.sampled_from(
        [
            *("<tool_call>", "</tool_call>", "<tool_", "call>", "<", " ", "\n", "words", "{", "}"),
            '{"name": "clock", "arguments": {}}',
            '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>',
            '<tool_call>{"name": "weather", "arguments": {"place": "Bern"}}</tool_call>',
            '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
            '<tool_call>{"name": "clock", "arguments": 1}</tool_call>',
        ]
    ),
    max_size=8,
)


@given(PIECES, st.randoms(use_true_random=False))
def test_pieces_are_read_as_the_whole_is(pieces: list[str], chance: Any):
    text = "".join(pieces)

    def read(parts: list[str]) -> tuple[str, list[tuple[str, str]]]:
        reader = CallReader({"clock", "weather"}, most=3)
        words, calls = "", []
        for part in parts:
            more, called = reader.read(part)
            words += more
            calls += [(call.name, call.arguments) for call in called]
        return words + reader.end(), calls

    parts, left = [], text
    while left:
        size = chance.randint(1, len(left))
        parts.append(left[:size])
        left = left[size:]
    whole_words, whole_calls = read([text])
    words, calls = read(parts)
    assert calls == whole_calls
    assert words == whole_words
    assert calls == called_in(text)[:3]
    if not calls:
        assert words == text, "what is no call stays as it is"


def called_in(text: str) -> list[tuple[str, str]]:
    found = []
    for inside in re.findall(r"<tool_call>(.*?)</tool_call>", text, flags=re.DOTALL):
        try:
            call = json.loads(inside)
        except ValueError:
            continue
        known = isinstance(call, dict) and call.get("name") in ("clock", "weather")
        if known and isinstance(call.get("arguments"), dict):
            found.append((call["name"], json.dumps(call["arguments"])))
    return found
