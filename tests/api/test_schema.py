"""What the OpenAPI schema says against what the service does, found out by schemathesis."""

from collections.abc import Iterator

import hypothesis
import pytest
import schemathesis
from fakes import long_winded_family
from models import KV_BYTES, WatchedModel
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from anysize.api.app import create_app
from anysize.settings import Settings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def app_schema() -> Iterator[object]:
    family = long_winded_family()
    app = create_app(Settings(max_tokens=8), family, WatchedModel(family, kv_bytes=KV_BYTES))
    config = schemathesis.Config.from_dict({"generation": {"mode": "all"}})
    with TestClient(app):
        yield schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


schema = schemathesis.pytest.from_fixture("app_schema")


def _few(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=False
    )


@schema.parametrize()
@_few(20)
def test_every_answer_is_documented(case: schemathesis.Case):
    case.call_and_validate(checks=CHECKS)


@pytest.mark.fault
@schema.parametrize()
@_few(100)
def test_every_answer_of_many_is_documented(case: schemathesis.Case):
    case.call_and_validate(checks=CHECKS)
