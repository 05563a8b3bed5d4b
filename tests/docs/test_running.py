"""Every fenced command of the pages is run, or there is a reason why not; those that take long do less work."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from documents import PAGES, ROOT, fenced, fenced_commands, words_of

BIN = Path(sys.executable).parent
CANNOT = {
    r"make [a-z-]+": "makes an environment of its own, or runs this test",
    r"\S*pip install": "this environment has been made so",
    r"curl ": "tests/docs/test_commands.py sends it",
    r".*(Harvard-DCML|openai-community|google-bert)": "needs models of the Hugging Face hub",
    r".*--tasks paper": "needs data of the Hugging Face hub",
    r".*anysize-train report": "tests/study/report runs it on a tiny family",
    r"cd deploy/ray": "tests/deploy/test_ray.py runs it, where Ray is installed",
    r"torchrun --nnodes": "needs several machines",
    r"vllm serve": "needs vLLM, in an environment of its own",
    r"accelerate launch": "starts a single process on a CPU; torchrun stands for both",
    r"(docker|kubectl|kustomize|helm|ray) ": "needs an engine or a cluster",
}
# What is appended to a command that would take minutes; the last of two options counts.
SHORTER = {
    r"bench build": "--rounds 3",
    r"bench single": "--answer-tokens 2 --rounds 1 --prompt-tokens 8",
    r"bench mixed": "--answer-tokens 2 --rounds 1 --requests 4 --sizes 2",
    r"bench burst": "--seconds 4",
    r"anysize-train bench": "--rows 1 --sequence-length 32 --steps 1",
    r"anysize-train untrained": "--vocabulary 400",
    r"anysize-train init": "--max-tokens 64 --window 32",
    r"anysize-train order": "--tokens 64 --window 32 --evaluate-tokens 64 --evaluate-window 32",
    r"anysize-train baseline": "--no-grid --layers 28 --max-tokens 32 --window 16 --evaluate-tokens 64 "
    "--evaluate-window 32",
    r"anysize-train analyse": "--max-tokens 64 --window 32",
    r"anysize-train evaluate": "--max-tokens 64 --window 32",
    r"distill --recipe scratch": "--set run.steps=2",
    r"anysize-train sweep": "--set run.steps=1 --max-tokens 64 --window 32",
    r"distill --recipe smollm2-135m": "--set run.steps=1 --set run.batch_size=1 --set run.micro_batch_size=1",
    r"torchrun": "--set run.steps=1",
    r"deploy/simulate": "--replicas 2",
}


def documented() -> list[tuple[str, str]]:
    return [(page, command) for page in PAGES for command in fenced_commands(page) if "..." not in command]


def reason_not_to(command: str) -> str | None:
    return next((why for pattern, why in CANNOT.items() if re.match(pattern, command)), None)


def written(folder: Path) -> None:
    """The files that the commands name, of the user's own."""
    text = (ROOT / "training/anysize_training/recipes/tiny.txt").read_text()
    paragraphs = [paragraph for paragraph in text.split("\n\n") if paragraph.strip()]
    lines = [json.dumps({"text": paragraphs[row % len(paragraphs)]}) for row in range(7600)]
    (folder / "wikipedia_vital_en.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("wikitext2_test.txt", "my-text.txt"):
        (folder / name).write_text(text)
    (folder / "deploy").symlink_to(ROOT / "deploy")
    (folder / "my-tasks").mkdir()
    definition, rows = fenced("training/README.md", "yaml")[1], fenced("training/README.md", "json")[0]
    (folder / "my-tasks" / "capitals.yaml").write_text(definition)
    (folder / "my-tasks" / "capitals.jsonl").write_text(rows)
    recipe = yaml.safe_load(fenced("training/README.md", "yaml")[0])
    recipe |= {"teacher": "builtin:smollm2-135m"}
    recipe["data"] |= {"source": "my-text.txt", "sequence_length": 32, "held_out": 1}
    recipe["run"] = {"steps": 2, "batch_size": 4, "micro_batch_size": 1}
    (folder / "my-recipe.yaml").write_text(yaml.safe_dump(recipe))


def run(command: str, folder: Path) -> None:
    words = words_of(command)
    for pattern, more in SHORTER.items():
        if pattern in command:
            words += more.split()
    program = BIN / Path(words[0]).name
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ANYSIZE_PORT": "0", "COLUMNS": "100"}
    if "serve" in words:
        serve([str(program), *words[1:]], folder, environment)
        return
    done = subprocess.run(
        [program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def serve(words: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Wait for the address that it says, ask it, and end it."""
    log = folder / "serve.log"
    with log.open("wb") as output, subprocess.Popen(words, cwd=folder, env=environment, stderr=output) as process:
        try:
            address = re.compile(r"http://127\.0\.0\.1:\d+")
            limit_s = time.monotonic() + 180
            while not (found := address.search(log.read_text())) and process.poll() is None:
                assert time.monotonic() < limit_s, log.read_text()
                time.sleep(0.1)
            assert found, log.read_text()
            with urllib.request.urlopen(f"{found[0]}/health", timeout=30) as answer:
                assert answer.status == 200
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()


def test_a_command_that_is_not_run_says_why() -> None:
    commands = [command for _page, command in documented()]
    assert len(commands) > 20
    known = re.compile(r"(\S*/)?(anysize|anysize-train|torchrun|python) ")
    for command in commands:
        assert reason_not_to(command) or known.match(command), f"no test runs this command: {command}"


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(page: str, tmp_path: Path) -> None:
    written(tmp_path)
    for of_page, command in documented():
        if of_page == page and reason_not_to(command) is None:
            run(command, tmp_path)
