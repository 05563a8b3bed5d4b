"""A teacher and a student in the format of the paper's authors, served from folders and from a hub that is a folder."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from fakes import CPU, byte_tokenizer, save_checkpoint_folder, tiny_bank
from models import KV_BYTES, eventually
from serving import LIMIT_S
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from anysize.api.app import create_app
from anysize.cli import app
from anysize.commands.serve import listening, load_family, load_model
from anysize.family import pair as pairs
from anysize.family.pair import Pair
from anysize.settings import Settings

KEPT, LAYERS = (0, 2, 5), 6
PROMPT = "The sea"


def write_pair(folder: Path, architecture: str) -> tuple[Path, Path]:
    """What the authors publish: two plain checkpoints, and `student_config.json` beside the student's weights."""
    bank = tiny_bank(architecture, teacher_layers=LAYERS, kept=KEPT, kind="full", tied=architecture != "gpt_neox")
    teacher = save_checkpoint_folder(bank.teacher, folder / "teacher")
    student = save_checkpoint_folder(bank.student, folder / "student")
    pruned = sorted(set(range(LAYERS)) - set(KEPT))
    config = {"pruned_teacher_layers": pruned, "copied_teacher_layers": list(KEPT)}
    (student / "student_config.json").write_text(json.dumps(config))
    return teacher, student


def plain_answer(checkpoint: Path, tokens: int) -> list[int]:
    """What transformers' own `generate` makes of a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = byte_tokenizer()(PROMPT, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0)  # pyright: ignore[reportAttributeAccessIssue]
    return out[0, ids.shape[1] :].tolist()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@contextmanager
def in_a_process(folder: Path, teacher: Path, student: Path) -> Iterator[str]:
    """The command itself."""
    command = [sys.executable, "-m", "anysize", "serve", "--teacher", str(teacher), "--student", str(student)]
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen([*command, "--port", "0", "--no-compile"], stderr=stream, env=os.environ)
    try:
        eventually(lambda: "serving on" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield log.read_text().split("serving on ")[1].split(" ")[0]
    finally:
        process.terminate()
        process.wait(LIMIT_S)


@contextmanager
def in_a_thread(_folder: Path, teacher: Path, student: Path) -> Iterator[str]:
    """What the command runs, without the seconds that a process takes to start."""
    settings = Settings(teacher=str(teacher), student=str(student), compile=False, kv_bytes=KV_BYTES)
    family = load_family(settings)
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings, family, load_model(settings, family, None)), log_level="critical")
    )
    with listening("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=LIMIT_S)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("architecture", "served"), [("qwen3", in_a_process), ("llama", in_a_thread), ("gpt_neox", in_a_thread)]
)
def test_a_pair_is_served_and_answers_as_plain_transformers(
    tmp_path: Path, architecture: str, served: Callable[..., AbstractContextManager[str]]
):
    teacher, student = write_pair(tmp_path, architecture)
    exported = tmp_path / "exported"
    with (
        served(tmp_path, teacher, student) as url,
        httpx.Client(base_url=url, timeout=LIMIT_S, trust_env=False) as client,
    ):
        listed = client.get("/variants").json()
        assert listed["family"] == "teacher"
        middle = listed["variants"][1]
        # The Llama pair is patched from the front, the others from the back (paper, Appendix B).
        assert middle["patched"] == ([1] if architecture == "llama" else [2, 3])
        environment = {"ANYSIZE_TEACHER": str(teacher), "ANYSIZE_STUDENT": str(student)}
        options = ("--size", middle["id"], "--out", str(exported))
        assert CliRunner().invoke(app, ["export", *options], env=environment).exit_code == 0
        for variant, checkpoint in (("student", student), (middle["id"], exported), ("teacher", teacher)):
            ask = {"prompt": PROMPT, "max_tokens": 8, "variant": variant, "logprobs": 0}
            answer = client.post("/generate", json=ask).json()
            got = [token["token_id"] for token in answer["logprobs"]]
            # An end token that transformers is told to ignore ends ours.
            assert got == plain_answer(checkpoint, 8)[: len(got)]
            assert len(got) == 8 or (got and answer["finish_reason"] == "stop")


def test_variants_and_generate_take_a_pair(tmp_path: Path):
    teacher, student = write_pair(tmp_path, "qwen3")
    named = ("--teacher", str(teacher), "--student", str(student), "--json")
    orders = {}
    for order in ("last_to_first", "first_to_last"):
        listed = json.loads(run("variants", *named, "--patch-order", order).stdout)["variants"]
        orders[order] = listed[1]["patched"]
    assert orders == {"last_to_first": [2, 3], "first_to_last": [1]}
    answer = json.loads(run("generate", PROMPT, "--size", "student", "--max-tokens", "3", *named).stdout)
    assert answer["variant"]["layers"] == len(KEPT)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("student/student_config.json", "Harvard-DCML/boomerang-qwen3-2.3B"),
        ("student/model.safetensors", "must be safetensors"),
        ("teacher/tokenizer.json", "tokenizer is the teacher's"),
        ("teacher/config.json", "--teacher wants a Hugging Face checkpoint"),
    ],
)
def test_what_is_missing_is_one_line_that_names_it(tmp_path: Path, missing: str, told: str):
    teacher, student = write_pair(tmp_path, "llama")
    (tmp_path / missing).unlink()
    result = run("variants", "--teacher", str(teacher), "--student", str(student))
    assert result.exit_code == 2
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert str(tmp_path / missing) in line
    assert told in line


def test_half_a_pair_and_two_families_are_one_line(tmp_path: Path):
    for arguments in (("--teacher", "a/b"), ("--student", "a/b"), ("--patch-order", "last_to_first")):
        assert "teacher" in run("variants", *arguments).stderr
        assert run("variants", *arguments).exit_code == 2
    both = run("variants", "--teacher", "a/b", "--student", "c/d", "--family", str(tmp_path))
    assert "not both" in both.stderr
    wrong = run("variants", "--teacher", "../nowhere", "--student", "c/d")
    assert "is no folder, and no name on the hub" in wrong.stderr


def test_names_on_the_hub_bring_only_files_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hub is a folder here: what `snapshot_download` is asked for is what it copies."""
    teacher, student = write_pair(tmp_path / "hub", "qwen3")
    for folder in (teacher, student):
        (folder / "pytorch_model.bin").write_bytes(b"never read")
        (folder / "modeling.py").write_text("never run")
    repos = {"Qwen/Qwen3-4B-Base": teacher, "Harvard-DCML/boomerang-qwen3-2.3B": student}
    asked: list[tuple[str, str | None]] = []

    def downloaded(repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((repo, revision))
        target = tmp_path / "snapshots" / "0123abcd" / repo.replace("/", "--")
        target.mkdir(parents=True)
        for file in repos[repo].iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, target / file.name)
        return str(target)

    monkeypatch.setattr("anysize.family.fetch.snapshot_download", downloaded)
    said: list[str] = []
    pair = Pair.found("Qwen/Qwen3-4B-Base@main", "Harvard-DCML/boomerang-qwen3-2.3B", said.append)
    assert asked == [("Qwen/Qwen3-4B-Base", "main"), ("Harvard-DCML/boomerang-qwen3-2.3B", None)]
    assert len(said) == 2
    brought = {file.suffix for folder in (pair.teacher, pair.student) for file in folder.iterdir()}
    assert brought <= {".json", ".safetensors", ".jinja"}
    family = pair.load(dtype=torch.float32, device=CPU)
    assert family.name == "Qwen3-4B-Base"
    assert family.ladder[0].id == "student"


def test_a_hub_that_cannot_be_reached_is_one_line():
    result = run("variants", "--teacher", "nobody/nothing", "--student", "nobody/nothing")
    assert result.exit_code == 2
    assert "'nobody/nothing' is no folder on this machine" in result.stderr


def test_orders_follow_the_paper():
    assert [pairs.default_order(name) for name in ("llama", "qwen3", "gpt_neox")] == [
        "first_to_last",
        "last_to_first",
        "last_to_first",
    ]
