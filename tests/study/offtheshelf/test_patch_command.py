"""The command that patches off-the-shelf pairs, and pairs that it refuses."""

import json
from pathlib import Path

import pytest
from fakes import CPU, byte_tokenizer, tiny_config, tiny_model
from pairs import COMMON, KEPT, bert, causal_pair, distilbert, letter_tokenizer, masked_pair, save
from transformers import DistilBertConfig, DistilBertForMaskedLM
from typer.testing import CliRunner

from anysize.errors import ArtifactError, FetchError, SettingsError
from anysize_training.cli import app
from anysize_training.study.offtheshelf.load import load_pair


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_the_command_measures_draws_and_goes_on(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, *_ = (masked_pair if kind == "masked" else causal_pair)(tmp_path)
    (tmp_path / "text.txt").write_text("not all those who wander are lost, and so on. " * 4)
    command = ["patch", str(tmp_path / "0"), str(tmp_path / "1"), "--text", str(tmp_path / "text.txt"), "--pruned"]
    command += ["--kept", "0,2,3", "--window", "16", "--max-tokens", "64", "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(app, [*command, "--plot", str(tmp_path / "sizes.svg"), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["measure"] == ("pseudo-perplexity" if kind == "masked" else "perplexity")
    assert report["tokens"] == 64
    # Patched last to first; the block in the middle has one layer.
    assert [(size["variant"], size["layers"]) for size in report["patched"]] == [
        ("student", 3),
        ("p3", 4),
        ("teacher", 5),
    ]
    assert report["patched"][-1]["kl"] == pytest.approx(0, abs=1e-6)
    assert report["pruned"][-1]["perplexity"] == pytest.approx(report["patched"][-1]["perplexity"])
    assert report["pruned"][0]["perplexity"] != report["patched"][0]["perplexity"]
    assert "</svg>" in (tmp_path / "sizes.svg").read_text()
    monkeypatch.setattr(type(pair), "scorer", lambda *_: pytest.fail("measured again"))
    again = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(again.stdout) == report
    assert "teacher" in CliRunner().invoke(app, command).output


def test_pairs_that_are_none_are_refused(tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", bert(), letter_tokenizer())
    student = save(tmp_path / "student", distilbert(), letter_tokenizer())
    gpt2 = save(tmp_path / "gpt2", tiny_model(tiny_config("gpt2", 3), 0), byte_tokenizer())
    headless = save(tmp_path / "headless", bert().bert, letter_tokenizer())
    other = DistilBertForMaskedLM(DistilBertConfig(**COMMON, dim=32, n_layers=3, n_heads=2, hidden_dim=48))
    wide = save(tmp_path / "wide", other, letter_tokenizer())
    code = tmp_path / "code"
    code.mkdir()
    (code / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "evil.Model"}}')

    def load(student: str, kept: tuple[int, ...] = KEPT, teacher: str = teacher) -> None:
        load_pair(teacher, student, kept, device=CPU, say=lambda _: None)

    load(student)
    with pytest.raises(SettingsError, match="the student has 3"):
        load(student, (0, 3))
    with pytest.raises(SettingsError, match="start at 1"):
        load(student, (1, 2, 3))
    with pytest.raises(ArtifactError, match="no BERT"):
        load(gpt2)
    with pytest.raises(ArtifactError, match="'distilbert' is not supported"):
        load(student, teacher=gpt2)
    with pytest.raises(ArtifactError, match="num_attention_heads 2, but the teacher 4"):
        load(wide)
    with pytest.raises(ArtifactError, match="no whole BertForMaskedLM"):
        load(headless, (0, 1, 2, 3, 4))
    with pytest.raises(ArtifactError, match="code of its own"):
        load(str(code))
    with pytest.raises(FetchError, match="no name on the hub"):
        load(str(tmp_path / "nowhere" / "at all"))
