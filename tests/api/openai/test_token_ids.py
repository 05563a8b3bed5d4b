"""Token ids from a client, at the edges of what the model knows."""

from collections.abc import Iterator

import pytest
from fakes import VOCABULARY, long_winded_family
from serving import RunningService, serving


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with serving(long_winded_family()) as service:
        yield service


def ask(service: RunningService, prompt: object) -> tuple[int, str]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "temperature": 0}
    with service.client() as client:
        answer = client.post("/v1/completions", json=body)
    return answer.status_code, answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""


@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("token", [-1, VOCABULARY, VOCABULARY + 1, VOCABULARY + 61, 2**31 - 1, 2**31, 2**63, 2**64])
def test_an_id_that_is_none_is_refused_and_neighbours_answer_as_before(service: RunningService, token: int, place: int):
    neighbour = [10, 11, 12]
    before = ask(service, neighbour)
    steps = service.family.steps
    prompt = [10, 11, 12]
    prompt[place] = token
    assert ask(service, prompt)[0] == 400
    assert ask(service, [neighbour, prompt])[0] == 400
    assert service.family.steps == steps
    assert ask(service, neighbour) == before


@pytest.mark.parametrize("token", [0, VOCABULARY - 1])
def test_the_first_and_the_last_id_are_taken(service: RunningService, token: int):
    assert ask(service, [token, 10, token])[0] == 200
