"""The commands in the READMEs: their options exist, their targets too, and those that speak HTTP get their answers."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from fakes import long_winded_family
from serving import RunningService, serving

from anysize.cli import app as anysize
from anysize_training.cli import app as training

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "service/README.md", "training/README.md", "deploy/README.md")
PROGRAMS = {"anysize": typer.main.get_command(anysize), "anysize-train": typer.main.get_command(training)}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"`([^`|]+)`")


def fenced(page: str, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall((ROOT / page).read_text()) if language in languages]


def commands(page: str) -> list[str]:
    """Fenced commands, and those in the cells of tables."""
    lines = [line for text in fenced(page, "sh", "bash") for line in text.replace("\\\n", " ").splitlines()]
    cells = [
        cell for line in (ROOT / page).read_text().splitlines() if line.startswith("|") for cell in CELL.findall(line)
    ]
    return [line for line in [*lines, *cells] if line.strip() and not line.startswith("#")]


def words_of(command: str) -> list[str]:
    return shlex.split(command.split(" # ")[0].split(" | ")[0].split(" > ")[0].split(" && ")[0])


PARSED = [
    (page, command)
    for page in PAGES
    for command in commands(page)
    if "..." not in command and re.match(r"(nohup )?(\S*/)?anysize(-train)? [a-z]", command)
]


def test_there_are_commands_to_look_at() -> None:
    assert len(PARSED) > 20


@pytest.mark.parametrize(("page", "command"), PARSED)
def test_a_command_names_options_that_there_are(page: str, command: str) -> None:
    words = [word for word in words_of(command) if word != "nohup"]
    at: Any = PROGRAMS[Path(words[0]).name]
    arguments = words[1:]
    while hasattr(at, "commands"):
        found = at.commands.get(arguments[0])
        assert found is not None, f"{page}: there is no command {arguments[0]}"
        at, arguments = found, arguments[1:]
    options = {name for parameter in at.params for name in [*parameter.opts, *parameter.secondary_opts]}
    named = [word.split("=")[0] for word in arguments if word.startswith("--")]
    assert set(named) <= options | {"--help"}, f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_make_has_the_targets_that_are_named(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words_of(line)[1] for line in commands(page) if re.match(r"make [a-z]", line)}
    assert named <= targets


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with serving(long_winded_family()) as running:
        yield running


def test_the_requests_of_the_readme_are_answered(service: RunningService) -> None:
    asked = [line for line in commands("README.md") if line.startswith("curl ")]
    assert len(asked) >= 4
    for line in asked:
        words = words_of(line)
        path = next(word for word in words if word.startswith("http")).split(":8000")[1]
        with service.client() as client:
            if "-d" in words:
                body = json.loads(words[words.index("-d") + 1].replace("smollm2-135m", "tiny"))
                answer = client.post(path, json=body)
            else:
                answer = client.get(path)
        # The tiny family is larger, by its share of the teacher, than the sizes that the built-in one has.
        is_too_small = answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and "no served size" in answer.text
        assert answer.status_code == httpx.codes.OK or is_too_small, (line, answer.text)


def test_the_python_of_the_readme_runs(service: RunningService) -> None:
    (script,) = fenced("README.md", "python")
    script = script.replace("http://127.0.0.1:8000", service.url).replace("smollm2-135m", "tiny").replace("0.8", "1.0")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny")
