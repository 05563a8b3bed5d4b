"""Memory that runs out outside the model costs a clear 503, and nobody else anything."""

import json
import threading
from typing import Any

import pytest
from serving import RunningService
from starlette.requests import Request

from anysize.api.generate import GenerateEvents
from anysize.api.prompt import PromptEncoder
from anysize.api.readers import Readers

ASK = {"prompt": "abc", "max_tokens": 4}
CHAT = {"messages": [{"role": "user", "content": "abc"}], "max_tokens": 4}


def short(*_arguments: object, **_keywords: object) -> Any:
    raise MemoryError


@pytest.mark.parametrize(
    ("owner", "name", "body"),
    [
        (owner, name, {**body, "stream": stream})
        for owner, name, body in (
            (Request, "json", ASK),
            (PromptEncoder, "check_context", ASK),
            (PromptEncoder, "messages", CHAT),
            (Readers, "run", ASK),
        )
        for stream in (False, True)
    ]
    + [(GenerateEvents, "begun", {**ASK, "stream": True})],
)
def test_a_request_for_which_there_is_no_memory_is_told_so(
    shared: RunningService, monkeypatch: pytest.MonkeyPatch, owner: type, name: str, body: dict[str, Any]
):
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, short)
        response = shared.generate(**body)
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "engine_unavailable"
    assert "not enough memory" in response.json()["error"]["message"]
    assert shared.generate(**body).status_code == 200


def test_a_template_without_memory_is_not_the_messages_fault(shared: RunningService, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(shared.state.encoder._tokenizer), "apply_chat_template", short)
    assert shared.generate(**CHAT).status_code == 503


@pytest.mark.parametrize("place", ["text", "done"])
def test_a_stream_that_has_begun_ends_with_an_error_event(
    shared: RunningService, monkeypatch: pytest.MonkeyPatch, place: str
):
    word, left = getattr(GenerateEvents, place), [1 if place == "text" else 0]

    def short_after(*arguments: Any) -> bytes:
        left[0] -= 1
        return word(*arguments) if left[0] >= 0 else short()

    monkeypatch.setattr(GenerateEvents, place, short_after)
    response = shared.generate(prompt="abc", max_tokens=200, stream=True)
    assert response.status_code == 200
    name, data = response.text.strip().split("\n\n")[-1].split("\n")
    assert name == "event: error"
    assert "not enough memory" in json.loads(data.removeprefix("data: "))["error"]["message"]


def test_no_thread_is_made_for_a_request(service: RunningService, monkeypatch: pytest.MonkeyPatch):
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    for path, body in (("/generate", ASK), ("/generate", CHAT), ("/v1/chat/completions", {"model": "tiny", **CHAT})):
        with service.client() as client:
            assert client.post(path, json=body).status_code == 200
            assert client.get("/health").status_code == 200
