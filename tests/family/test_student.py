"""Students in the format that the paper's authors publish."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ARCHITECTURES, CPU, save_checkpoint_folder, tiny_bank, tiny_config, tiny_model
from references import all_variants, reference_model, some_tokens

from anysize.errors import ArtifactError
from anysize.family.bank import Bank
from anysize.family.family import Family

Raw = dict[str, Any]


def publish(bank: Bank, root: Path) -> tuple[Path, Path]:
    """The checkpoints of a pair, the student's with the authors' file beside it."""
    teacher = save_checkpoint_folder(bank.teacher, root / "teacher")
    student = save_checkpoint_folder(bank.student, root / "student")
    layers = {"copied_teacher_layers": list(bank.blocks.kept), "pruned_teacher_layers": list(bank.blocks.dropped())}
    (student / "student_config.json").write_text(json.dumps(layers))
    return teacher, student


def load(teacher: Path, student: Path) -> Family:
    return Family.from_pair(teacher, student, dtype=torch.float32, device=CPU, patch_order="last_to_first")


def change(path: Path, update: Callable[[Raw], object]) -> None:
    raw = json.loads(path.read_text())
    update(raw)
    path.write_text(json.dumps(raw))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return publish(tiny_bank("llama", kind="full"), tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_published_pair_loads_as_a_family(architecture: str, tied: bool, tmp_path: Path) -> None:
    bank, tokens = tiny_bank(architecture, kind="full", tied=tied), some_tokens()
    family = load(*publish(bank, tmp_path))
    assert family.name == "teacher"
    assert [size.id for size in family.ladder] == ["student", "p2-3", "teacher"]
    for variant in all_variants(3):
        with torch.no_grad():
            ours, expected = family.assemble(variant)(tokens).logits, reference_model(bank, variant)(tokens).logits
        assert torch.equal(ours, expected), variant.id


def test_layers_may_be_listed_in_any_order(pair: tuple[Path, Path]) -> None:
    layers = {"copied_teacher_layers": [5, 0, 2], "pruned_teacher_layers": [4, 3, 1], "teacher": "ignored"}
    change(pair[1] / "student_config.json", lambda raw: raw.update(layers))
    assert load(*pair).bank.blocks.kept == (0, 2, 5)


def test_a_pair_that_differs_in_names_and_token_ids_alone_is_a_pair(pair: tuple[Path, Path]) -> None:
    change(pair[1] / "config.json", lambda raw: raw.update(eos_token_id=7, use_cache=False, _name_or_path="elsewhere"))
    assert load(*pair).bank.student.config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ({"copied_teacher_layers": [0, 2]}, "together are not the teacher's layers 0 to 5"),
        ({"copied_teacher_layers": [0, 2, 5, 6]}, "together are not"),
        ({"copied_teacher_layers": [0, 2, 2, 5]}, "together are not"),
        ({"pruned_teacher_layers": [1, 3, 4, 5]}, "together are not"),
        ({"copied_teacher_layers": [1, 2, 5], "pruned_teacher_layers": [0, 3, 4]}, "always kept"),
        ({"copied_teacher_layers": [], "pruned_teacher_layers": [0, 1, 2, 3, 4, 5]}, "at least one"),
        ({"copied_teacher_layers": ["0", "2", "5"]}, "a list of layer numbers"),
        ({"copied_teacher_layers": [False, 2, 5]}, "a list of layer numbers"),
        ({"copied_teacher_layers": [0.0, 2, 5]}, "a list of layer numbers"),
        ({"copied_teacher_layers": [0, [2], 5]}, "a list of layer numbers"),
        ({"copied_teacher_layers": {"0": 0}}, "a list of layer numbers"),
        ({"copied_teacher_layers": None}, "a list of layer numbers"),
        ({"pruned_teacher_layers": "1,3,4"}, "a list of layer numbers"),
    ],
)
def test_layer_lists_that_make_no_block_map_are_refused(layers: Raw, reason: str, pair: tuple[Path, Path]) -> None:
    path = pair[1] / "student_config.json"
    change(path, lambda raw: raw.update(layers))
    with pytest.raises(ArtifactError, match=reason) as caught:
        load(*pair)
    assert caught.value.path == path


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}", b"{", b"\xff"])
def test_a_missing_or_damaged_student_config_is_refused(content: bytes | None, pair: tuple[Path, Path]) -> None:
    path = pair[1] / "student_config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        load(*pair)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("update", "field"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, "rope_parameters"),
        ({"rms_norm_eps": 1e-2}, "rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"max_position_embeddings": 99}, "max_position_embeddings"),
    ],
)
def test_a_student_that_computes_otherwise_is_no_pair(update: Raw, field: str, pair: tuple[Path, Path]) -> None:
    change(pair[1] / "config.json", lambda raw: raw.update(update))
    with pytest.raises(ArtifactError, match=f"{field} is .* no pair") as caught:
        load(*pair)
    assert caught.value.path == pair[1] / "config.json"


def test_a_student_of_another_width_is_no_pair(pair: tuple[Path, Path]) -> None:
    config = tiny_config("llama", 3)
    config.hidden_size, config.intermediate_size, config.head_dim = 16, 32, 4
    tiny_model(config, 0).save_pretrained(pair[1])
    with pytest.raises(ArtifactError, match="no pair"):
        load(*pair)


def test_a_student_of_another_architecture_or_depth_is_no_pair(pair: tuple[Path, Path]) -> None:
    tiny_model(tiny_config("qwen3", 3), 0).save_pretrained(pair[1])
    with pytest.raises(ArtifactError, match="no pair"):
        load(*pair)
    tiny_model(tiny_config("llama", 4), 0).save_pretrained(pair[1])
    with pytest.raises(ArtifactError, match=r"has 4 layers, but student_config\.json copies 3"):
        load(*pair)


def test_a_student_with_a_kind_of_attention_the_teacher_has_not_is_no_pair(tmp_path: Path) -> None:
    teacher, student = publish(tiny_bank("qwen2", kind="full"), tmp_path)
    change(teacher / "config.json", lambda raw: raw.update(layer_types=["full_attention"] * 6))
    with pytest.raises(ArtifactError, match="sliding_attention"):
        load(teacher, student)
