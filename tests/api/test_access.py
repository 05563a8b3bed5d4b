"""Who may use which route: API keys, the limit of each, pages from elsewhere, and keys that are told to nobody."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fakes import WatchedFamily, long_winded_family
from models import eventually
from openai import OpenAI
from serving import RunningService, http_request, serving
from starlette.routing import BaseRoute, Mount, Route

from anysize.api import keys
from anysize.errors import SettingsError
from anysize.settings import Settings, load_settings

KEY, OTHER, WRONG = "first-canary-0123456789", "second-canary-0123456789", "wrong-canary-0123456789"
PUBLIC = {"/", "/page", "/health", "/ready", "/docs", "/openapi.json"}
ASK = {"prompt": "abc", "max_tokens": 1}
WITH_KEY = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def family() -> WatchedFamily:
    return long_winded_family()


@pytest.fixture(scope="module")
def locked(family: WatchedFamily) -> Iterator[RunningService]:
    """A service with two keys."""
    with serving(family, api_keys=f"{KEY},{OTHER}") as service:
        yield service


def routes(found: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of every route of an app, whether the schema lists it or not."""
    for route in found:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from routes(router.routes)
        elif isinstance(route, Mount):
            yield "GET", route.path
        else:
            assert isinstance(route, Route)
            for method in route.methods or ():
                yield method, route.path


def test_every_route_is_public_by_list_or_needs_a_key(locked: RunningService):
    seen: set[str] = set()
    with locked.client() as client:
        for method, path in routes(locked.app.routes):
            seen.add(path)
            target = path.replace("{model:path}", "tiny") + ("/icon.svg" if path == "/page" else "")
            for headers in (
                {},
                {"Authorization": f"Bearer {WRONG}"},
                {"Host": "a/?x="},
                {"Host": "a/#"},
                {"Host": "a/health?"},
                {"Authorization": f"Basic {KEY}"},
                {"Authorization": KEY},
                {"X-Forwarded-Prefix": "/health", "X-Original-URL": "/health"},
            ):
                answer = client.request(method, target, headers=headers, json=ASK if method == "POST" else None)
                assert answer.status_code == (200 if path in PUBLIC else 401), (method, path, headers)
            if path not in PUBLIC:
                answer = client.request(method, target, headers=WITH_KEY, json=ASK if method == "POST" else None)
                assert answer.status_code != 401, (method, path)
    assert seen >= PUBLIC
    assert seen >= {"/generate", "/variants", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions"}
    assert locked.family.steps > 0


def test_a_route_that_somebody_forgot_would_be_seen(family: WatchedFamily):
    with serving(family, api_keys=KEY) as service:
        service.app.add_api_route("/forgotten", lambda: "open")
        with pytest.raises(AssertionError, match="forgotten"):
            test_every_route_is_public_by_list_or_needs_a_key(service)


@pytest.mark.parametrize("key", [KEY, OTHER])
def test_any_of_the_keys_opens(locked: RunningService, key: str):
    with locked.client() as client:
        for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}):
            assert client.post("/generate", json=ASK, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value", ["", "Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Bearer {KEY} {KEY}", f"Bearer {KEY},"]
)
def test_nothing_else_does(locked: RunningService, value: str):
    with locked.client() as client:
        refused = client.get("/variants", headers={"Authorization": value})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"]["type"] == "invalid_api_key"


def test_bytes_that_are_no_text_and_two_headers_do_not_either(locked: RunningService):
    right = f"Authorization: Bearer {KEY}".encode()
    for lines in (b"Authorization: Bearer \xff\xfe" + b"\xe9" * 20, right + b"\r\n" + right):
        with locked.raw() as connection:
            connection.sendall(b"GET /variants HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n\r\n")
            assert connection.recv(4096).startswith(b"HTTP/1.1 401")


def test_who_has_no_key_is_refused_before_the_body_is_read(locked: RunningService):
    with locked.raw() as connection:
        connection.sendall(http_request(b'{"prompt": ', "Content-Length: 1000000"))
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")


def test_keys_are_compared_in_constant_time_and_all_of_them(locked: RunningService, monkeypatch: pytest.MonkeyPatch):
    compared: list[bool] = []
    compare = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: (compared.append(compare(a, b)), compared[-1])[1])
    with locked.client() as client:
        for key in (KEY, OTHER, WRONG):
            client.get("/variants", headers={"Authorization": f"Bearer {key}"})
    assert compared == [True, False, False, True, False, False]


def test_openais_client_sends_its_key_and_hears_of_a_wrong_one(locked: RunningService):
    def models(key: str) -> list[str]:
        with OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0) as client:
            return [model.id for model in client.models.list().data]

    assert "tiny" in models(KEY)
    with pytest.raises(openai.AuthenticationError) as refusal:
        models(WRONG)
    assert refusal.value.code == "invalid_api_key"


def test_the_schema_says_where_a_key_is_needed(locked: RunningService):
    document = locked.app.openapi()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation, "401" in operation["responses"]) == ((path not in PUBLIC),) * 2, path


def test_without_keys_nobody_is_asked_for_one(family: WatchedFamily):
    with serving(family) as service:
        assert service.generate(**ASK).status_code == 200
        assert "security" not in str(service.app.openapi())


def test_a_key_and_a_prompt_are_in_no_log_metric_error_or_setting(
    family: WatchedFamily, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    told = [repr(settings := Settings(api_keys=KEY)), str(settings), str(settings.keys)]  # pyright: ignore[reportArgumentType]
    with caplog.at_level(logging.DEBUG), serving(family, api_keys=KEY, rate_limit="4/day") as service:
        with service.client() as client:
            for key in (KEY, WRONG, KEY, KEY, KEY, KEY, KEY):
                bearer = {"Authorization": f"Bearer {key}"}
                told.append(client.post("/generate", json={**ASK, "prompt": "canary-prompt"}, headers=bearer).text)
                told.append(client.get(f"/{key}", headers=bearer).text)
            monkeypatch.setattr(type(service.state.encoder), "encode", lambda *_: {}[KEY])
            broken = client.post("/generate", json={**ASK, "prompt": "canary-prompt"}, headers=WITH_KEY)
            told += [broken.text, client.get("/metrics", headers=WITH_KEY).text]
        eventually(lambda: sum("failed with" in one for one in caplog.messages) == (broken.status_code == 500))
        told += [str(vars(record)) for record in caplog.records if record.name.startswith(("anysize", "uvicorn"))]
    statuses = " ".join(told)
    assert "rate_limit_exceeded" in statuses
    assert "invalid_api_key" in statuses
    assert "canary" not in statuses


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"api_keys": ""}, "holds no key"),
        ({"api_keys": " , "}, "holds no key"),
        ({"api_keys": "short-canary"}, "16 to 256"),
        ({"api_keys": "canary with spaces in it"}, "16 to 256"),
        ({"api_keys": f"{KEY},canary\u00e9canary0123456789"}, "16 to 256"),
        ({"api_keys": ",".join(f"canary-key-{number:010d}" for number in range(1001))}, "1001 API keys"),
        ({"rate_limit": "many"}, "rate_limit"),
        ({"rate_limit": "0/minute"}, "rate_limit"),
        ({"cors_origins": "example.org"}, "cors_origins"),
        ({"cors_origins": "https://example.org/path"}, "cors_origins"),
    ],
)
def test_doors_that_are_set_up_wrongly_stay_shut_and_say_so(given: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said) as refusal:
        load_settings(**given)
    assert "canary" not in str(refusal.value)
    assert "canary" not in str(refusal.value.__cause__)


def test_keys_come_from_a_file_and_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n\n  {OTHER}\r\n{KEY}\n")
    monkeypatch.setenv("ANYSIZE_API_KEYS_FILE", str(file))
    monkeypatch.setenv("ANYSIZE_API_KEYS", f"{WRONG}, {KEY},")
    assert [key.get_secret_value() for key in load_settings().keys] == [WRONG, KEY, OTHER]
    file.write_text("\n")
    monkeypatch.delenv("ANYSIZE_API_KEYS")
    for content in (b"\n", b"\xff\xfe" * 20):
        file.write_bytes(content)
        with pytest.raises(SettingsError):
            load_settings()
    file.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings()


@pytest.mark.parametrize(
    ("host", "is_reachable"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True), ("a.example", True)],
)
def test_a_service_knows_whether_others_reach_it(host: str, is_reachable: bool):
    assert Settings(host=host).is_reachable == is_reachable


def test_each_key_has_a_limit_of_its_own(family: WatchedFamily):
    with serving(family, api_keys=f"{KEY},{OTHER}", rate_limit="3/day") as service, service.client() as client:

        def ask(key: str, path: str = "/generate", **more: Any) -> int:
            return client.post(path, json={**ASK, **more}, headers={"Authorization": f"Bearer {key}"}).status_code

        before = service.family.steps
        assert [ask(KEY) for _ in range(2)] == [200] * 2
        assert ask(KEY, "/v1/completions", model="tiny") == 200
        assert [ask(KEY, path, model="tiny") for path in ("/v1/completions", "/v1/chat/completions")] == [429] * 2
        refused = client.post("/generate", content=b"no JSON", headers=WITH_KEY)
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 2 * 86400
        assert service.family.steps == before + 3
        assert ask(WRONG) == 401  # and is no caller
        assert [ask(OTHER) for _ in range(4)] == [200, 200, 200, 429]
        for _ in range(5):  # what costs the model nothing is free
            assert client.get("/variants", headers=WITH_KEY).status_code == 200
        registry = service.state.metrics.registry
        assert registry.get_sample_value("anysize_request_failure_total", {"reason": "RateLimitError"}) == 4


def test_without_keys_an_address_is_a_caller(family: WatchedFamily):
    with serving(family, rate_limit="2/day") as service:
        assert [service.generate(**ASK).status_code for _ in range(3)] == [200, 200, 429]


def test_a_page_from_elsewhere_may_ask_where_its_origin_is_allowed_and_nowhere_else(family: WatchedFamily):
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = "https://a.example, http://b.example:3000"
    with serving(family, cors_origins=allowed, api_keys=KEY) as service, service.client() as client:
        for origin, is_allowed in {"https://a.example": True, "https://evil.example": False}.items():
            preflight = client.options("/generate", headers={"Origin": origin, **asks})
            assert (preflight.status_code == 200) == is_allowed
            refused = client.post("/generate", json=ASK, headers={"Origin": origin})
            assert refused.status_code == 401
            for answer in (preflight, refused):
                assert answer.headers.get("access-control-allow-origin") == (origin if is_allowed else None)
                assert "access-control-allow-credentials" not in answer.headers
    with serving(family) as service, service.client() as client:
        assert client.options("/generate", headers={"Origin": "https://a.example", **asks}).status_code == 405
        assert (
            "access-control-allow-origin"
            not in client.get("/variants", headers={"Origin": "https://a.example"}).headers
        )
