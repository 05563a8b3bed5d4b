"""Tasks of lm-evaluation-harness on sizes in memory, against accuracies computed without it."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import torch
from fakes import ARCHITECTURES, byte_tokenizer, tiny_bank, write_tiny_family
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from anysize.errors import SettingsError
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.evaluation import Evaluation
from anysize_training.study.tasks import CLASSIFICATION, GENERATION, chosen_names, load_tasks

WORDS = ("blue", "green and", "in a", "of", "never mind", "zebra", "so", "the sky is")
QUESTIONS = [
    {"question": f"What comes after {number}?", "choices": [*WORDS[number % 6 :][:3]], "answer": number % 3}
    for number in range(12)
]
README = Path(__file__).parents[2] / "training/README.md"
WITHOUT_NETWORK = """
import socket, sys

def looked_for(*arguments, **_):
    print("looked for", arguments[1:], file=sys.stderr)
    raise OSError("no network here")

socket.socket.connect = socket.getaddrinfo = looked_for
from anysize_training.cli import app
app(["evaluate", *sys.argv[1:]])
"""


def write_task(folder: Path, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    (folder / "choice.yaml").write_text(
        "task: tiny_choice\noutput_type: multiple_choice\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder}/questions.jsonl}}}}\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: answer\ndoc_to_choice: "{{choices}}"\n'
        "metric_list: [{metric: acc}]\n" + more
    )
    return folder


def accuracy_by_hand(bank: Bank, variant: Variant, count: int) -> float:
    """Of each choice the log probability of its tokens behind the question; plain transformers, one at a time."""
    model, tokenizer, right = assemble(bank, variant), byte_tokenizer(), 0
    for one in QUESTIONS[:count]:
        scores = []
        for choice in one["choices"]:
            question, answer = tokenizer(one["question"]).input_ids, tokenizer(f" {choice}").input_ids
            with torch.no_grad():
                log_probabilities = model(torch.tensor([question + answer])).logits[0].log_softmax(-1)
            places = range(len(question) - 1, len(question) + len(answer) - 1)
            scores.append(
                sum(log_probabilities[place, token].item() for place, token in zip(places, answer, strict=True))
            )
        right += scores.index(max(scores)) == one["answer"]
    return right / count


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_accuracy_equals_that_computed_by_hand(architecture: str, tmp_path: Path) -> None:
    bank, tokenizer = tiny_bank(architecture), byte_tokenizer()
    [task] = load_tasks(["tiny_choice"], include=write_task(tmp_path / "tasks"))
    found = set()
    for variant in (Variant.student(3), Variant((True, False, False)), Variant.teacher(3)):
        result = task.result(assemble(bank, variant), tokenizer, context=64, batch=5)
        assert result.main == ("acc", pytest.approx(accuracy_by_hand(bank, variant, 12)))
        assert result.examples == 12
        found.add(result.main[1])
    assert len(found) > 1


def test_a_limit_asks_the_first_examples_and_is_another_task(tmp_path: Path) -> None:
    bank, folder = tiny_bank("llama"), write_task(tmp_path / "tasks")
    [short] = load_tasks(["tiny_choice"], include=folder, limit=5)
    result = short.result(assemble(bank, Variant.student(3)), byte_tokenizer(), context=64, batch=8)
    assert result.examples == 5
    assert result.main[1] == pytest.approx(accuracy_by_hand(bank, Variant.student(3), 5))
    [whole] = load_tasks(["tiny_choice"], include=folder)
    assert short.made_of != whole.made_of == load_tasks(["tiny_choice"], include=folder)[0].made_of


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_harness_does_not_tie_the_head_of_one_owner_to_the_embedding_of_the_other(architecture: str) -> None:
    bank, tokens = tiny_bank(architecture), torch.randint(3, 250, (2, 9))
    for choice in ((False, False, False), (True, False, False), (False, True, True), (True, True, True)):
        model = assemble(bank, Variant(choice))
        with torch.no_grad():
            before = model(tokens).logits
            HFLM(pretrained=model, tokenizer=byte_tokenizer())  # pyright: ignore[reportCallIssue]
            assert torch.equal(model(tokens).logits, before)


def test_a_head_that_is_marked_as_tied_would_be_changed() -> None:
    # The trap itself: the test above would see it.
    bank, tokens = tiny_bank("llama"), torch.randint(3, 250, (2, 9))
    model = assemble(bank, Variant((True, False, False)))
    with torch.no_grad():
        before = model(tokens).logits
        model.config.tie_word_embeddings = True
        HFLM(pretrained=model, tokenizer=byte_tokenizer())  # pyright: ignore[reportCallIssue]
        assert not torch.equal(model(tokens).logits, before)


def test_generation_tasks_are_asked_for_as_many_tokens_as_they_say(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "tasks")
    bank, tokenizer = tiny_bank("llama"), byte_tokenizer()
    model = assemble(bank, Variant((False, True, False)))
    prompt = torch.tensor([tokenizer("Say: ").input_ids])
    generate: Any = model.generate
    said = tokenizer.decode(generate(prompt, max_new_tokens=5, do_sample=False)[0, prompt.shape[1] :])
    (folder / "said.jsonl").write_text(
        "".join(json.dumps({"question": "Say: ", "answer": answer}) + "\n" for answer in (said, "something else"))
    )
    (folder / "said.yaml").write_text(
        "task: tiny_said\noutput_type: generate_until\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {folder}/said.jsonl}}}}\ntest_split: test\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: "{{answer}}"\n'
        "generation_kwargs: {until: [], max_gen_toks: 5, do_sample: false}\nmetric_list: [{metric: exact_match}]\n"
    )
    [task] = load_tasks(["tiny_said"], include=folder)
    assert task.result(model, tokenizer, context=64, batch=2).main == ("exact_match", 0.5)


def test_code_that_a_model_wrote_is_never_run(tmp_path: Path) -> None:
    [task] = load_tasks(["tiny_choice"], include=write_task(tmp_path / "tasks", "unsafe_code: true\n"))
    model = assemble(tiny_bank("llama"), Variant.student(3))
    with pytest.raises(SettingsError, match="runs code that the model writes"):
        task.result(model, byte_tokenizer(), context=64, batch=8)


def test_errors_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_task(tmp_path / "tasks")
    with pytest.raises(SettingsError, match="no folder"):
        load_tasks(["tiny_choice"], include=tmp_path / "nowhere")
    (folder / "questions.jsonl").unlink()
    with pytest.raises(SettingsError, match="task tiny_choice cannot be prepared"):
        load_tasks(["tiny_choice"], include=folder)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(SettingsError, match=r"anysize\[eval\]"):
        load_tasks(["tiny_choice"])


def test_the_papers_tasks_are_in_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_names(["paper"]) == [*CLASSIFICATION, *GENERATION]
    assert chosen_names(["piqa, rte", "piqa,paper-generation"]) == ["piqa", "rte", *GENERATION]
    # Only where they are: reading all of the harness's ten thousand files takes long.
    parts = ["arc", "super_glue/boolq", "hellaswag", "openbookqa", "piqa", "winogrande", "race", "mmlu/default"]
    parts += ["glue/rte", "gsm8k", "ifeval", "hendrycks_math"]
    folders: list[str | Path] = [Path(lm_eval.tasks.__path__[0]) / part for part in parts]
    few = partial(TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", lambda include_path: few(include_path=folders))
    assert {*CLASSIFICATION, *GENERATION} <= {*few(include_path=folders).all_tasks}
    with pytest.raises(SettingsError, match=r"no task 'arc_eazy'; near are .*arc_easy"):
        load_tasks([*CLASSIFICATION, *GENERATION, "arc_eazy"])


def test_the_documented_task_of_ones_own_opens_no_connection(tmp_path: Path) -> None:
    write_tiny_family(tmp_path / "family")
    blocks = re.findall(r"^```(yaml|json)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "my-tasks").mkdir()
    for language, suffix in (("yaml", "yaml"), ("json", "jsonl")):
        block = next(text for kind, text in blocks if kind == language and ("capitals" in text or "country" in text))
        (tmp_path / "my-tasks" / f"capitals.{suffix}").write_text(block)
    # The hub is not switched off; whoever looks for it is stopped.
    offline = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_NETWORK,
            "family",
            "--tasks",
            "capitals",
            "--include-path",
            "my-tasks",
            "--json",
        ],
        cwd=tmp_path,
        env=environment | {"HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    sizes = json.loads(done.stdout)["sizes"]
    assert len(sizes) > 2
    assert all(size["tasks"]["capitals"]["examples"] == 3 for size in sizes)
    assert "looked for" not in done.stderr


def test_a_family_is_measured_once_for_text_words_and_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_family(tmp_path / "family")
    tasks, text, out = write_task(tmp_path / "tasks"), tmp_path / "text.txt", tmp_path / "report.json"
    text.write_text("All that is gold does not glitter, not all those who wander are lost. " * 4)
    command = ["evaluate", str(tmp_path / "family"), "--text", str(text), "--words", "--window", "32", "--int8"]
    command += ["--untrained", "--tasks", "tiny_choice", "--include-path", str(tasks), "--limit", "6", "--json"]
    command += ["--variant", "teacher", "--variant", "p2", "--out", str(out)]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert [size["variant"] for size in report["sizes"]] == ["teacher", "p2"]
    for size in report["sizes"]:
        assert size["word_perplexity"] > size["byte_perplexity"] > 1
        assert size["tasks"]["tiny_choice"]["examples"] == 6
        assert size["perplexity"] > 1
        assert size["perplexity_int8"] > 1
    assert report["sizes"][0]["kl"] == pytest.approx(0, abs=1e-6)
    assert json.loads(out.read_text())["report"] == report

    def never(*_: object, **__: object) -> None:
        pytest.fail("measured again")

    for name in ("Evaluator", "int8_evaluator", "untrained_quality", "rolling_quality"):
        monkeypatch.setattr(f"{Evaluation.__module__}.{name}", never)
    monkeypatch.setattr("anysize_training.study.tasks.Task.result", never)
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == report
    shown = CliRunner().invoke(app, [word for word in command if word != "--json"])
    assert "tiny_choice: acc on 6 examples" in shown.output


def test_the_papers_tasks_are_asked_where_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(names: list[str], *, limit: int | None, include: Path | None) -> None:
        asked.append((names, limit, include))
        raise SettingsError("enough")

    monkeypatch.setattr("anysize_training.commands.evaluate.load_tasks", load)
    assert CliRunner().invoke(app, ["evaluate", str(tmp_path), "--limit", "3"]).exit_code == 2
    assert asked == [([*CLASSIFICATION, *GENERATION], 3, None)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "tiny_choice", "--write"], "--write puts"),
        (["--text", "TEXT", "--variant", "p9"], "positions 1 to 3"),
        (["--text", "TEXT", "--out", "nowhere/at/all.json"], "folder does not exist"),
    ],
)
def test_options_that_do_not_fit_are_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    write_tiny_family(tmp_path / "family")
    (tmp_path / "text.txt").write_text("word " * 80)
    options = [str(tmp_path / "text.txt") if word == "TEXT" else word for word in options]
    failed = CliRunner().invoke(app, ["evaluate", str(tmp_path / "family"), *options])
    assert failed.exit_code == 2
    assert message in failed.output
