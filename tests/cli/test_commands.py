"""The command line: what it prints, and how it fails."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from anysize.cli import app
from anysize.family.family import Family
from anysize.settings import Settings

BENCHMARKS = ("build", "memory", "mixed", "single", "http", "load", "prefix", "latency")
COMMANDS = (
    *(["fetch"], ["serve"], ["variants"], ["generate"], ["export"], ["calibrate"], ["doctor"]),
    *(["bench", name] for name in BENCHMARKS),
)


def run(*arguments: str, **env: str) -> Result:
    # Wide enough that no line of help is broken in the middle of an example.
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", **env})


def printed(result: Result) -> dict[str, Any]:
    """The one JSON object on standard output."""
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def complaint(result: Result) -> str:
    """The one line of a failure that a user caused."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.output
    assert result.stdout == ""
    return lines[0].removeprefix("error: ")


@pytest.fixture(scope="module")
def family(folder: Path) -> Family:
    return Family.load(folder, dtype=torch.float32, device=torch.device("cpu"))


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command[0] in result.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_shows_an_example(command: list[str]):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"Examples?: anysize {' '.join(command)}", result.stdout), result.stdout


def test_the_help_of_serve_lists_every_setting_with_its_default_and_its_purpose():
    shown = " ".join(run("serve", "--help").stdout.split())
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f" ({field.default})"
        assert field.description
        purpose = " ".join(field.description.replace("`", "").split())
        assert f"ANYSIZE_{name.upper()}{default}: {purpose}" in shown


def test_settings_that_leave_prompts_no_room_are_one_line_that_names_both():
    line = complaint(run("serve", ANYSIZE_MAX_RUNNING_REQUESTS="64", ANYSIZE_MAX_STEP_TOKENS="64"))
    assert "max_step_tokens (64)" in line
    assert "max_running_requests (64)" in line


def test_memory_too_small_for_a_single_token_is_one_line(folder: Path):
    line = complaint(run("serve", "--family", str(folder), "--port", "0", ANYSIZE_KV_BYTES="100"))
    assert "100 bytes" in line


def test_without_a_command_help_is_shown():
    assert "Usage" in run().output


def test_variants_as_json_are_the_ladder(folder: Path, family: Family):
    listed = printed(run("variants", "--family", str(folder), "--json"))
    assert set(listed) == {"family", "blocks", "variants"}
    assert [(out["id"], out["parameters"]) for out in listed["variants"]] == [
        (size.id, size.footprint.parameters) for size in family.ladder
    ]


def test_variants_as_a_table_name_each_size(folder: Path, family: Family):
    result = run("variants", "--family", str(folder))
    assert result.exit_code == 0
    for size in family.ladder:
        assert size.id in result.stdout


@pytest.mark.parametrize(("size", "rung"), [("1.0", -1), ("teacher", -1), ("student", 0), ("0.9", -2)])
def test_generate_as_json_is_the_answer_of_the_service(folder: Path, family: Family, size: str, rung: int):
    arguments = ("generate", "The sea", "--size", size, "--max-tokens", "4", "--family", str(folder), "--json")
    answer = printed(run(*arguments))
    assert set(answer) == {"id", "text", "finish_reason", "variant", "usage", "timing"}
    assert answer["variant"]["id"] == family.ladder[rung].id
    assert answer["usage"]["prompt_tokens"] == len("The sea")
    assert printed(run(*arguments))["text"] == answer["text"]


def test_generate_prints_the_text_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch):
    text = "[bold]:smile: " + "word " * 60 + "\n\n  indented"
    monkeypatch.setattr("anysize.engine.detokenizer.Detokenizer.finish", lambda _self: text)
    result = run("generate", "a", "--max-tokens", "1", "--family", str(folder), COLUMNS="40")
    assert result.stdout == text + "\n"
    assert "teacher" in result.stderr


def test_generate_with_a_seed_repeats_itself_and_chat_uses_the_template(folder: Path):
    sampled = (
        "generate",
        "a",
        "--max-tokens",
        "8",
        "--family",
        str(folder),
        "--json",
        "--temperature",
        "1.5",
        "--seed",
    )
    assert printed(run(*sampled, "3"))["text"] == printed(run(*sampled, "3"))["text"]
    assert printed(run(*sampled, "3"))["text"] != printed(run(*sampled, "4"))["text"]
    chat = printed(run("generate", "a", "--chat", "--max-tokens", "1", "--family", str(folder), "--json"))
    assert chat["usage"]["prompt_tokens"] > 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--size", "0"], "above 0 and at most 1"),
        (["--size", "1.5"], "above 0 and at most 1"),
        (["--size", "nan"], "above 0 and at most 1"),
        (["--size", "0.01"], "'student'"),
        (["--size", "big"], "'big' is no variant id"),
        (["--size", "p9"], "positions 1 to 3"),
        (["--temperature", "101"], "temperature"),
        (["--max-tokens", "5000"], "max_tokens"),
        (["--max-tokens", "99999999"], "max_tokens"),
        (["--seed", str(1 << 63)], "seed"),
        (["--device", "cuda:7"], "cuda:7"),
        (["--device", "tpu"], "device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_one_line_that_names_it(folder: Path, options: list[str], named: str):
    assert named in complaint(run("generate", "a", "--family", str(folder), *options))


@pytest.mark.parametrize(("prompt", "named"), [("", "prompt"), ("a\ud800", "prompt"), ("a" * 300, "300 prompt tokens")])
def test_a_wrong_prompt_is_one_line(folder: Path, prompt: str, named: str):
    assert named in complaint(run("generate", prompt, "--family", str(folder)))


@pytest.mark.parametrize(
    "options",
    [["--max-tokens", "0"], ["--temperature", "-1"], ["--temperature", "nan"], ["--seed", "-1"], ["--nonsense"]],
)
def test_what_the_parser_refuses_exits_with_2_too(options: list[str]):
    assert run("generate", "a", *options).exit_code == 2


@pytest.mark.parametrize(
    "command", [["variants"], ["generate", "a"], ["serve", "--port", "0"], ["bench", "build"]], ids=" ".join
)
def test_a_wrong_family_is_one_line_that_says_what_and_where(tmp_path: Path, command: list[str]):
    nowhere = tmp_path / "[red]nowhere[/red]"
    line = complaint(run(*command, "--family", str(nowhere)))
    assert str(nowhere) in line
    assert "missing" in line


def test_a_damaged_family_is_one_line(tmp_path: Path):
    (tmp_path / "family.json").write_text('{"name": "x",\n"architecture": 3\n}\n')
    line = complaint(run("variants", "--family", str(tmp_path)))
    assert str(tmp_path / "family.json") in line


@pytest.mark.parametrize("port", ["99999", "-1", "65536"])
def test_a_wrong_port_names_the_setting(port: str):
    line = complaint(run("serve", "--port", port))
    assert line.startswith("port (or ANYSIZE_PORT)")
    assert port in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "abc"),
        ("dtype", "float8"),
        ("device", "tpu"),
        ("max_queued_requests", "0"),
        ("drain_s", "-1"),
        ("drain_s", "nan"),
        ("stall_s", "0"),
        ("kv_bytes", "-1"),
        ("max_running_requests", "0"),
        ("max_step_tokens", "1"),
        ("max_queued_tokens", "0"),
        ("queue_timeout_s", "0"),
        ("write_timeout_s", "inf"),
        ("threads", "x"),
    ],
)
def test_a_wrong_environment_variable_is_named(name: str, value: str):
    line = complaint(run("serve", **{f"ANYSIZE_{name.upper()}": value}))
    assert f"ANYSIZE_{name.upper()}" in line
    assert value in line


def test_export_writes_a_checkpoint_that_transformers_loads(folder: Path, family: Family, tmp_path: Path):
    out = tmp_path / "out"
    result = run("export", "--size", "0.9", "--out", str(out), "--family", str(folder))
    assert result.exit_code == 0, result.output
    size = family.ladder[-2]
    assert size.id in result.stderr
    model = AutoModelForCausalLM.from_pretrained(out)
    tokens = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        # The checkpoint holds the sums of teacher and update, so the last digits may differ.
        assert torch.allclose(model(tokens).logits, family.assemble(size.variant)(tokens).logits, atol=1e-5)
    assert len(model.model.layers) == size.layers


def test_export_refuses_a_folder_that_exists_and_leaves_it_alone(folder: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    line = complaint(run("export", "--size", "1", "--out", str(tmp_path), "--family", str(folder)))
    assert str(tmp_path) in line
    assert "exists" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_module_is_the_command(folder: Path, family: Family):
    done = subprocess.run(
        [sys.executable, "-m", "anysize", "variants", "--family", str(folder), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert [out["id"] for out in json.loads(done.stdout)["variants"]] == [size.id for size in family.ladder]
    assert done.stderr == ""
