"""Answers that must follow a grammar, from models whose own taste is random."""

import json
from typing import Any

import jsonschema_rs
import pytest
import torch
from fakes import WatchedFamily, long_winded_family, tiny_bank
from hypothesis import given, settings
from hypothesis import strategies as st
from models import HashModel, running

from anysize.engine.engine import Engine
from anysize.engine.grammars import Grammars
from anysize.engine.request import Choice, GenerationRequest, Sampling
from anysize.errors import RequestError
from anysize.family.family import Family

FAMILY = WatchedFamily(tiny_bank("llama"))
ENDLESS = long_winded_family()
GRAMMARS = {family: Grammars(family) for family in (FAMILY, ENDLESS)}

_LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.integers(0, 50).map(lambda least: {"type": "integer", "minimum": least, "maximum": least + 20}),
    st.integers(0, 5).map(lambda most: {"type": "string", "maxLength": most}),
    st.lists(st.sampled_from(["a", "bc", 'q"uote', "é", 1, None]), min_size=1, unique_by=repr).map(
        lambda all_: {"enum": all_}
    ),
)


def _objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    named = st.dictionaries(st.sampled_from(["x", "y", "a b"]), inner, min_size=1, max_size=2)
    return named.map(
        lambda properties: {
            "type": "object",
            "properties": properties,
            "required": sorted(properties)[:1],
            "additionalProperties": False,
        }
    )


def _arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return inner.map(lambda items: {"type": "array", "items": items, "minItems": 1, "maxItems": 2})


SCHEMAS = st.recursive(_LEAVES, lambda inner: st.one_of(_objects(inner), _arrays(inner)), max_leaves=4)


def asked(family: Family, schema: Any = None, **options: Any) -> GenerationRequest:
    return GenerationRequest(
        id="x",
        prompt_ids=[9, 10],
        size=family.teacher,
        sampling=Sampling(**{"max_tokens": 1500, "temperature": 1.0, "seed": 1, **options}),
        grammar=None if schema is None else GRAMMARS[family].of_schema(schema, "response_format"),  # pyright: ignore[reportArgumentType]
    )


def answers(engine: Engine, *requests: GenerationRequest) -> list[Choice]:
    futures = [engine.submit(request) for request in requests]
    return [future.result(timeout=60).choices[0] for future in futures]


@pytest.mark.parametrize("family", [FAMILY, ENDLESS], ids=["ends", "endless"])
@settings(max_examples=40)
@given(schema=SCHEMAS, seed=st.integers(0, 100), temperature=st.sampled_from([0.0, 1.0, 5.0]))
def test_answers_follow_their_schema_and_leave_their_neighbours_alone(
    family: Family, schema: dict[str, Any], seed: int, temperature: float
):
    with running(family, HashModel()) as engine:
        free = asked(family, seed=seed, max_tokens=8)
        [before] = answers(engine, free)
        kept, beside = answers(
            engine,
            asked(family, schema, seed=seed, temperature=temperature, top_k=40, repetition_penalty=1.1),
            asked(family, seed=seed, max_tokens=8),
        )
    assert beside == before
    assert kept.finish_reason == "stop"  # every schema here allows finitely many texts, all of them short enough
    jsonschema_rs.validate(schema, json.loads(kept.text))


def test_an_answer_ends_where_nothing_may_follow():
    with running(ENDLESS, HashModel()) as engine:
        [choice] = answers(engine, asked(ENDLESS, {"type": "object", "properties": {}, "additionalProperties": False}))
    assert (choice.text, choice.finish_reason) == ("{}", "stop")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"not": {"type": "string"}},
        {"uniqueItems": True, "type": "array"},
        {"type": "string", "pattern": "("},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/nowhere"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"enum": ["x" * 70_000]},
    ],
    ids=lambda schema: json.dumps(schema)[:40],
)
def test_what_is_no_schema_for_a_grammar_is_refused(schema: dict[str, Any]):
    with pytest.raises(RequestError) as error:
        GRAMMARS[FAMILY].of_schema(schema, "response_format")
    assert error.value.field == "response_format"
    assert len(str(error.value)) < 1000


def test_a_schema_nested_too_deeply_is_refused():
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(20_000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(RequestError, match="deep"):
        GRAMMARS[FAMILY].of_schema(schema, "response_format")
    while "items" in schema:  # or taking it apart would nest as deeply
        schema = schema["items"]


def test_logits_without_grammars_are_not_copied():
    from anysize.engine.sampler import Sampler, _constrained

    logits_RV = torch.randn(2, 8)
    assert _constrained(logits_RV, [Sampler(Sampling(max_tokens=1))] * 2) is logits_RV
