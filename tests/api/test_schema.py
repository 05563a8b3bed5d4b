"""What the OpenAPI schema says against what the service does, found out by schemathesis."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from fakes import long_winded_family
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving import RunningService, serving

CHECKS: Any = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    ("POST", "/generate"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/variants"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
]


# Where there is nothing to say, there is nothing wrong to say.
CASES = [
    (method, path, mode)
    for method, path in OPERATIONS
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if method == "POST" or mode is GenerationMode.POSITIVE
]


@pytest.fixture(scope="module")
def served() -> Iterator[RunningService]:
    with serving(long_winded_family(), max_tokens=8) as service:
        yield service


def check(service: RunningService, method: str, path: str, mode: GenerationMode, examples: int) -> None:
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    found = [one.ok() for one in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    assert {(one.method.upper(), one.path) for one in found} == set(OPERATIONS)

    @hypothesis.settings(max_examples=examples, deadline=None, suppress_health_check=[*hypothesis.HealthCheck])  # pyright: ignore[reportArgumentType]
    @hypothesis.given(case=schema[path][method].as_strategy(generation_mode=mode))
    def every_answer_is_documented(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    every_answer_is_documented()


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_every_answer_is_documented(served: RunningService, method: str, path: str, mode: GenerationMode):
    check(served, method, path, mode, 20)


@pytest.mark.fault
@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_every_answer_of_many_is_documented(served: RunningService, method: str, path: str, mode: GenerationMode):
    check(served, method, path, mode, 100)
