"""The dashboard against a running service: what it asks for is there, and moves as it should under a scripted load.

A real Prometheus scrapes a tiny family's service every second and evaluates every panel's own expressions.
"""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from calibrated import calibration
from dashboard import ALERTS, asked, dashboard
from fakes import Gate, long_winded_family
from models import eventually
from prometheus_client.parser import text_string_to_metric_families
from serving import LIMIT_S, RunningService, serving

from anysize.engine.request import GenerationRequest, Sampling


@contextmanager
def calibrated() -> Iterator[RunningService]:
    """A service that runs one answer at a time and expects a millisecond a teacher layer."""
    family = long_winded_family()
    with serving(family, calibration=calibration(family, ms_a_layer=1.0), max_running_requests=1) as service:
        yield service


OF_PROMETHEUS = {"up", "le", "instance", "job"}


def test_panels_have_places_of_their_own():
    taken: set[tuple[int, int]] = set()
    panels = dashboard().panels
    assert len({panel.id for panel in panels}) == len(panels)
    for panel in panels:
        place = panel.gridPos
        cells = {(x, y) for x in range(place.x, place.x + place.w) for y in range(place.y, place.y + place.h)}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel.title
        taken |= cells


def test_what_panels_and_alerts_name_is_in_the_metrics():
    with calibrated() as service:
        load(service)
        with service.client() as client:
            families = list(text_string_to_metric_families(client.get("/metrics").text))
    labels = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    expressions = [target.expr for panel in dashboard().drawn for target in panel.targets]
    for expression in [*expressions, *(rule["expr"] for rule in rules)]:
        for name, selector in re.findall(r"\b((?:anysize|process)_\w+)(?:\{([^}]*)\})?", expression):
            assert name in labels, name
            named = set(re.findall(r"(\w+)\s*[=!]", selector))
            assert named <= labels[name] | OF_PROMETHEUS, (name, named)
        of_all = set().union(*(labels[name] for name in re.findall(r"\b(?:anysize|process)_\w+", expression)))
        for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
            assert {label.strip() for label in group.split(",")} <= of_all | OF_PROMETHEUS, expression


def load(service: RunningService, letter: str = "x") -> None:
    """Every kind of request that a panel tells of."""
    for variant in ("student", service.family.ladder[1].id, "teacher"):
        prompt = letter * 40
        for stream in (False, True):
            ask = {"prompt": prompt, "max_tokens": 6, "variant": variant, "stream": stream}
            assert service.generate(**ask).status_code == 200
    for ms in (1e-3, 1e6):
        answer = service.generate(prompt="abc", max_tokens=4, budget={"ttft_ms": ms})
        assert answer.status_code == 200
    assert service.generate(prompt="abc", budget={"parameters": 1}).status_code == 422
    assert service.generate(prompt="abc", variant="p99").status_code == 422


def request(service: RunningService) -> GenerationRequest:
    ids = service.family.tokenizer("abc").input_ids
    return GenerationRequest(id="x", prompt_ids=ids, size=service.family.teacher, sampling=Sampling(max_tokens=3))


@contextmanager
def prometheus(binary: str, service: RunningService, folder: Path) -> Iterator[httpx.Client]:
    """A Prometheus that has scraped the service at least once."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            {"job_name": "anysize", "static_configs": [{"targets": [f"127.0.0.1:{service.port}"]}]},
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    process = subprocess.Popen(
        [binary, *options, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT_S, trust_env=False) as client:
            eventually(lambda: _scraped(client))
            yield client
    finally:
        process.kill()
        process.wait()


def _scraped(client: httpx.Client) -> bool:
    try:
        return bool(values(client, 'up{job="anysize"} == 1'))
    except (httpx.TransportError, AssertionError):
        time.sleep(0.1)
        return False


def values(client: httpx.Client, expression: str) -> dict[str, float]:
    """What an expression gives now, by its labels; without the series that are no number."""
    response = client.get("/api/v1/query", params={"query": expression})
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["data"]["result"]
    by_labels = {str(sorted(one["metric"].items())): float(one["value"][1]) for one in found}
    return {labels: value for labels, value in by_labels.items() if value == value}


# What each panel says while nothing happens; the others say nothing at all, or 0.
IDLE = {"Engine", "Resident memory", "HTTP time", "Memory for keys and values"}
# Where the load holds a request in the model; what moves by rates does so after it.
HELD = {"Running and waiting", "Memory for keys and values"}


def test_every_panel_moves_as_it_should_under_load(prometheus_binary: str, tmp_path: Path):
    panels = dashboard().drawn
    with (
        calibrated() as service,
        prometheus(prometheus_binary, service, tmp_path) as client,
    ):

        def drawn() -> dict[str, list[dict[str, float]]]:
            return {panel.title: [values(client, asked(one.expr)) for one in panel.targets] for panel in panels}

        before = drawn()
        for title, targets in before.items():
            assert title in IDLE or not any(value for target in targets for value in target.values()), title
        # Rates need a sample before the first request of a kind, and one after: twice the load, a scrape in between.
        load(service)
        _scrape(client)
        load(service, "y")
        gate = Gate()
        service.family.before_step = gate
        futures = [service.state.engine.submit(request(service)) for _ in range(3)]
        eventually(lambda: sum(sum(one.values()) for one in drawn()["Running and waiting"]) == 3)
        held = drawn()
        gate.open()
        for future in futures:
            future.result(timeout=LIMIT_S)
        _scrape(client)
        after = drawn()
        for panel in panels:
            for target, found in zip(panel.targets, (held if panel.title in HELD else after)[panel.title], strict=True):
                assert any(value > 0 for value in found.values()), (panel.title, target.expr)
        one_of = {panel.title: [sum(target.values()) for target in after[panel.title]] for panel in panels}
        assert [sum(one.values()) for one in held["Running and waiting"]] == [1, 2]
        assert 0 < sum(held["Memory for keys and values"][0].values()) <= 1
        eventually(lambda: not any(sum(one.values()) for one in drawn()["Running and waiting"]))
        for title in ("Time to first token", "Time between tokens", "Time to last token", "Step"):
            median, most = one_of[title]
            assert 0 < median <= most, title
        (mean_size,) = one_of["Mean size"]
        assert service.family.ladder[0].fraction < mean_size < 1
        assert {"student", "teacher"} <= set(re.findall(r"'variant', '([^']*)'", str(after["Requests"])))
        assert {"200", "422"} == set(re.findall(r"'status', '([^']*)'", str(after["Responses"])))
        assert {"BudgetError", "VariantError"} == set(re.findall(r"'reason', '([^']*)'", str(after["Reasons"])))
        assert all(0 < share < 1 for share in one_of["Prefix cache"])
        assert after["Engine"] == [
            {"[('state', 'ok')]": 1.0, "[('state', 'stalled')]": 0.0, "[('state', 'dead')]": 0.0}
        ]
        kept, missed = one_of["Kept and missed"]
        assert kept == pytest.approx(missed, rel=0.05)


def _scrape(client: httpx.Client) -> None:
    """Wait for two more scrapes."""
    counted = 'count_over_time(up{job="anysize"}[10m])'
    started = sum(values(client, counted).values())
    eventually(lambda: sum(values(client, counted).values()) >= started + 2)
