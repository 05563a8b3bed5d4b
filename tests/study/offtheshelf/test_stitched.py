"""Models of different widths: maps that exist are found, and both ends are the models as they are."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CONTEXT, CPU, byte_tokenizer, tiny_config, tiny_model
from pairs import bert, distilbert, letter_tokenizer, save
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel
from typer.testing import CliRunner

from anysize.errors import ArtifactError, SettingsError
from anysize.family.variant import Variant
from anysize_training.cli import app
from anysize_training.study.offtheshelf.load import load_pair
from anysize_training.study.offtheshelf.stitched import StitchedPair
from anysize_training.study.texts import Text, Windows

LAYERS, WIDE = 4, 48


def teacher_of_plain_norms() -> LlamaForCausalLM:
    model = tiny_model(tiny_config("llama", LAYERS, tied=False), 0)
    assert isinstance(model, LlamaForCausalLM)
    return model


def the_same_in_another_basis(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function with wider hidden states: zeros behind the model's own, then all turned by a rotation.

    An RMS norm divides by the square root of the width, so its weight and its epsilon are scaled by the widths' ratio.
    """
    config = copy.deepcopy(model.config)
    narrow = config.hidden_size
    config.hidden_size, config.head_dim = WIDE, narrow // config.num_attention_heads
    config.rms_norm_eps = config.rms_norm_eps * narrow / WIDE
    made = LlamaForCausalLM(config).eval()
    rotation = torch.linalg.qr(torch.randn(WIDE, WIDE, generator=torch.Generator().manual_seed(3)).double()).Q

    def wide(weight: Tensor, *, is_output: bool) -> Tensor:
        weight = weight.double().T if is_output else weight.double()
        turned = nn.functional.pad(weight, (0, WIDE - narrow)) @ rotation
        return (turned.T if is_output else turned).float()

    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            tensors[name] = torch.full((WIDE,), math.sqrt(narrow / WIDE))
        else:
            tensors[name] = wide(tensor, is_output="o_proj" in name or "down_proj" in name)
    made.load_state_dict(tensors)
    return made


def text(tmp_path: Path, characters: int = 4000) -> Path:
    generator = torch.Generator().manual_seed(1)
    letters = torch.randint(97, 123, (characters,), generator=generator).tolist()
    path = tmp_path / "fit.txt"
    path.write_text("".join(map(chr, letters)))
    return path


def load(tmp_path: Path, teacher: PreTrainedModel, student: PreTrainedModel, kept: tuple[int, ...]) -> StitchedPair:
    folders = [save(tmp_path / str(at), one, byte_tokenizer()) for at, one in enumerate((teacher, student))]
    fit = Text(text(tmp_path), 0, 2000, 32)
    pair = load_pair(folders[0], folders[1], kept, device=CPU, say=lambda _: None, fit=fit)
    assert isinstance(pair, StitchedPair)
    return pair


def some_windows() -> Windows:
    return Windows("text", "0" * 64, torch.randint(97, 123, (3, 17), generator=torch.Generator().manual_seed(9)))


def loss_of(model: PreTrainedModel, windows: Windows) -> float:
    with torch.no_grad():
        logits = model(windows.tokens_NL[:, :-1]).logits.flatten(0, 1)
        return nn.functional.cross_entropy(logits, windows.tokens_NL[:, 1:].flatten()).item()


def test_where_an_exact_map_exists_every_stitched_model_is_the_teacher(tmp_path: Path) -> None:
    teacher = teacher_of_plain_norms()
    student, windows = the_same_in_another_basis(teacher), some_windows()
    with torch.no_grad():
        ours, theirs = student(windows.tokens_NL).logits, teacher(windows.tokens_NL).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    pair = load(tmp_path, teacher, student, tuple(range(LAYERS)))
    score = pair.scorer(windows)
    for choice in ((True, False, False, False), (False, True, False, True), (True, True, False, True)):
        assert score(Variant(choice)).kl == pytest.approx(0, abs=1e-4)
    # A map of the wrong seam is not good enough.
    seams = [*pair.seams]
    seams[0] = type(seams[0])(seams[2].to_teacher, nn.Linear(teacher.config.hidden_size, WIDE).requires_grad_(False))
    wrong = StitchedPair(pair.name, pair.sides, pair.blocks, seams, pair.tokenizer, pair.fingerprint)
    assert wrong.scorer(windows)(Variant((True, False, False, False))).kl > 1e-2


@pytest.mark.parametrize(("architecture", "of_student"), [("llama", "llama"), ("gpt_neox", "qwen3")])
def test_models_of_other_widths_and_heads_go_together(tmp_path: Path, architecture: str, of_student: str) -> None:
    teacher = tiny_model(tiny_config(architecture, 5), 0)
    config = tiny_config(of_student, 3)
    config.hidden_size, config.num_attention_heads, config.num_key_value_heads = 24, 3, 1
    config.head_dim = 8
    student, windows = tiny_model(config, 1), some_windows()
    pair = load(tmp_path, teacher, student, (0, 2, 3))
    score = pair.scorer(windows)
    assert score(Variant.teacher(3)).negative_log_likelihood == pytest.approx(loss_of(teacher, windows), rel=1e-6)
    assert score(Variant.teacher(3)).kl == pytest.approx(0, abs=1e-7)
    assert score(Variant.student(3)).negative_log_likelihood == pytest.approx(loss_of(student, windows), rel=1e-6)
    between = [score(Variant(choice)).perplexity for choice in ((True, False, False), (False, True, False))]
    assert all(math.isfinite(value) for value in between)
    # What a variant weighs: its layers and the maps that it goes through.
    maps = 2 * 24 * 32 + 24 + 32
    extra = pair.parameters(Variant((False, True, False))) - pair.parameters(Variant.student(3))
    layers = teacher.get_submodule(("gpt_neox" if architecture == "gpt_neox" else "model") + ".layers.2")
    replaced = student.get_submodule("model.layers.1")
    weights = [sum(tensor.numel() for tensor in layer.parameters()) for layer in (layers, replaced)]
    assert extra == maps + weights[0] - weights[1]


def test_a_map_is_the_least_squares_one(tmp_path: Path) -> None:
    teacher, config = teacher_of_plain_norms(), tiny_config("llama", 2)
    config.hidden_size = 16
    student = tiny_model(config, 1)
    pair = load(tmp_path, teacher, student, (0, 2))
    tokens = Text(text(tmp_path), 0, 2000, 32).windows(byte_tokenizer()).tokens_NL
    with torch.no_grad():
        ours = student(tokens, output_hidden_states=True).hidden_states[1].flatten(0, 1).double()
        theirs = teacher(tokens, output_hidden_states=True).hidden_states[2].flatten(0, 1).double()
    with_ones = torch.cat([ours, torch.ones(len(ours), 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(with_ones, theirs).solution
    torch.testing.assert_close(pair.seams[0].to_teacher.weight.double(), solution[:-1].T, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(pair.seams[0].to_teacher.bias.double(), solution[-1], rtol=1e-2, atol=1e-3)


def test_the_command_stitches_and_names_what_is_missing(tmp_path: Path) -> None:
    config = tiny_config("llama", 3)
    config.hidden_size = 16
    save(tmp_path / "teacher", teacher_of_plain_norms(), byte_tokenizer())
    save(tmp_path / "student", tiny_model(config, 1), byte_tokenizer())
    fit = str(text(tmp_path))
    command = ["patch", str(tmp_path / "teacher"), str(tmp_path / "student"), "--kept", "0,1,3", "--text", fit]
    command += ["--max-tokens", "64", "--window", "16", "--json"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "--fit-text" in refused.output
    pruned = CliRunner().invoke(app, [*command, "--fit-text", fit, "--fit-tokens", "256", "--pruned"])
    assert pruned.exit_code == 2
    assert "no place for" in " ".join(pruned.output.split())
    done = CliRunner().invoke(app, [*command, "--fit-text", fit, "--fit-tokens", "256"])
    assert done.exit_code == 0, done.output
    sizes: list[dict[str, Any]] = json.loads(done.stdout)["patched"]
    assert sizes[0]["variant"] == "student"
    assert all(math.isfinite(size["perplexity"]) for size in sizes)
    assert sizes[-1]["kl"] == pytest.approx(0, abs=1e-6)


def test_another_tokenizer_and_masked_models_are_refused(tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", teacher_of_plain_norms(), byte_tokenizer())
    student = save(tmp_path / "student", tiny_model(tiny_config("llama", 3), 1), letter_tokenizer())
    fit = Text(text(tmp_path), 0, 200, CONTEXT // 4)
    with pytest.raises(ArtifactError, match="another tokenizer"):
        load_pair(teacher, student, (0, 1, 2), device=CPU, say=lambda _: None, fit=fit)
    masked = [save(tmp_path / name, one, letter_tokenizer()) for name, one in (("b", bert()), ("d", distilbert()))]
    with pytest.raises(SettingsError, match="for causal"):
        load_pair(masked[0], masked[1], (0, 2, 3), device=CPU, say=lambda _: None, fit=fit)
