"""Smaller sizes under load, and answers that change size, over HTTP."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fakes import Gate, long_winded_family
from models import eventually
from serving import RunningService, serving

PROMPT = "The sea"


def flexible(service: RunningService, floor: int = 0, **body: Any) -> dict[str, Any]:
    least = service.family.ladder[floor].footprint.parameters
    return {"prompt": PROMPT, "max_tokens": 4, "budget": {"min_parameters": least}, **body}


def test_under_load_who_allows_it_is_answered_by_smaller_sizes_and_nobody_is_refused_above_a_floor():
    family, gate = long_winded_family(), Gate()
    with serving(family, max_running_requests=2, max_queued_requests=4) as service, ThreadPoolExecutor(8) as pool:
        family.before_step = gate
        asked: list[Future[httpx.Response]] = []
        # One runs, four wait, the last of them without a floor.
        bodies = [flexible(service, floor=number % 3) for number in range(4)] + [{"prompt": PROMPT, "max_tokens": 4}]
        for number, body in enumerate(bodies):
            asked.append(pool.submit(service.generate, **body))
            eventually(lambda seen=number: seen < sum_of(service))
        assert sum_of(service) == 5
        refused = service.generate(**flexible(service))
        gate.open()
        answers = [future.result().json() for future in asked]

        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        # The first came to an empty service. Those that were still in the queue when it was full got their floors.
        assert answers[0]["variant"]["id"] == family.teacher.id
        assert "wanted" not in answers[0]
        for number in (1, 2, 3):
            assert answers[number]["variant"]["id"] == family.ladder[number % 3].id
            assert answers[number]["wanted"] == family.teacher.id
        assert answers[4]["variant"]["id"] == family.teacher.id, "who names no floor gets what was asked for"
        assert "wanted" not in answers[4]
        with service.client() as client:
            text = client.get("/metrics").text
        assert f'anysize_size_degradations_total{{variant="{family.ladder[2].id}"}}' in text

        # And once the load has gone, everybody gets again what was asked for.
        calm = service.generate(**flexible(service)).json()
        assert calm["variant"]["id"] == family.teacher.id


def sum_of(service: RunningService) -> int:
    state = service.state.engine.state()
    return state.waiting + state.running


def test_an_answer_that_may_change_size_says_which_it_had():
    family = long_winded_family()
    with serving(family) as service:
        answer = service.generate(
            prompt=PROMPT, max_tokens=12, resize=True, budget={"fraction": 1.0, "min_parameters": 1}
        ).json()
        assert answer["sizes"] == [{"variant": family.teacher.id, "tokens": 12}]
        assert "wanted" not in answer

        with service.client() as client:
            body = {"prompt": PROMPT, "max_tokens": 12, "resize": True, "stream": True}
            lines = client.post("/generate", json=body).text.split("\n")
        done = json.loads(next(line for line in reversed(lines) if line.startswith("data: ")).removeprefix("data: "))
        assert done["sizes"] == [{"variant": family.teacher.id, "tokens": 12}]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"resize": True, "variant": "student"}, "leave out variant and n"),
        ({"resize": True, "n": 2}, "leave out variant and n"),
        ({"budget": {"min_parameters": 0}}, "greater than or equal to 1"),
        ({"budget": {"min_parameters": 1 << 62}}, "sizes by their parameters: 'student' "),
        ({"budget": {"min_parameters": 1 << 20, "parameters": 1}}, "at least min_parameters 1048576"),
    ],
)
def test_floors_that_cannot_be_and_sizes_that_cannot_change_are_refused(
    adaptive: RunningService, body: dict[str, Any], says: str
):
    refused = adaptive.generate(prompt=PROMPT, **body)
    assert refused.status_code == 422
    assert says in refused.json()["error"]["message"]


@pytest.fixture(scope="module")
def adaptive():
    with serving(long_winded_family()) as service:
        yield service


def test_a_floor_alone_is_a_budget_whose_largest_size_answers(adaptive: RunningService):
    answer = adaptive.generate(**flexible(adaptive, floor=1)).json()
    assert answer["variant"]["id"] == adaptive.family.teacher.id
