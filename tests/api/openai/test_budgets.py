"""Latency budgets and failures in the words of OpenAI's API, through its own client."""

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from calibrated import MS_A_LAYER, calibration
from fakes import long_winded_family
from serving import RunningService, serving

MESSAGES: Any = [{"role": "user", "content": "What is the sea?"}]


@pytest.fixture(scope="module")
def calibrated() -> Iterator[RunningService]:
    family = long_winded_family()
    with serving(family, calibration=calibration(family)) as running:
        running.state.planner._correction.saw = lambda *_, **__: None  # pyright: ignore[reportOptionalMemberAccess]
        yield running


def client_of(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=30)


def ask(service: RunningService, **options: Any) -> Any:
    with client_of(service) as client:
        return asked(client, **options)


def asked(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=MESSAGES, **{"max_tokens": 4, **options})


def test_headers_choose_the_size(calibrated: RunningService):
    sizes = calibrated.family.ladder
    for size in (sizes[0], sizes[-1]):
        answer = ask(calibrated, extra_headers={"x-slo-tpot-ms": str(MS_A_LAYER * size.layers + 1)})
        assert answer.model == f"tiny@{size.id}"
        assert answer.anysize["budget_kept"] is True
        assert answer.anysize["timing"]["predicted"]["tpot_ms"] == pytest.approx(MS_A_LAYER * size.layers)


def test_a_budget_that_cannot_be_kept_is_said_or_refused(calibrated: RunningService):
    answer = ask(calibrated, extra_body={"budget": {"tpot_ms": 1.0}})
    assert answer.model == f"tiny@{calibrated.family.ladder[0].id}"
    assert answer.anysize["budget_kept"] is False
    with pytest.raises(openai.BadRequestError) as error:
        ask(calibrated, extra_body={"budget": {"tpot_ms": 1.0, "on_miss": "reject"}})
    assert error.value.code == "budget_too_small"
    assert f"tpot_ms {MS_A_LAYER * calibrated.family.ladder[0].layers:.1f}" in error.value.message


def test_a_stream_says_at_its_end_what_was_expected(calibrated: RunningService):
    with client_of(calibrated) as client:
        chunks = list(asked(client, extra_body={"budget": {"tpot_ms": 1e6}}, stream=True))
    assert chunks[-1].anysize["budget_kept"] is True
    assert set(chunks[-1].anysize["timing"]["predicted"]) == {"ttft_ms", "tpot_ms", "total_ms"}


def test_a_model_that_fails_in_the_middle_ends_the_stream_with_an_error():
    has_come = threading.Event()

    def fail(_rows: object) -> None:
        if has_come.wait(timeout=0.05):
            raise RuntimeError("secret")

    family = long_winded_family()
    with serving(family) as service, client_of(service) as client:
        family.before_step = fail
        with pytest.raises(openai.APIError) as error:  # noqa: PT012  (what came before is looked at)
            for chunk in asked(client, stream=True, max_tokens=100):
                if any(choice.delta.content for choice in chunk.choices):
                    has_come.set()
        assert has_come.is_set(), "what came before the failure has come"
        assert "secret" not in error.value.message
        assert error.value.type == "server_error"
