"""What a student starts from, against plain transformers and the folder that it came from."""

import copy
import json
from pathlib import Path

import pytest
import torch
from fakes import ARCHITECTURES, CPU, RANK, Kind, tiny_config, tiny_model, write_tiny_family
from layer_measures import with_idle_layers
from pydantic import ValidationError
from stacked import layer_tensors, merged, stacked
from transformers import AutoModelForCausalLM

from anysize.errors import ArtifactError, SettingsError
from anysize.family.architectures import architecture_of
from anysize.family.artifact import STUDENT
from anysize.family.assembly import student_config
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.delta import own_tensors
from anysize.family.family import Family
from anysize_training.distill.initialise import initial_bank
from anysize_training.distill.recipe import Student

IDS = torch.randint(3, 250, (2, 16), generator=torch.Generator().manual_seed(5))
MEASURED = ("kl", "similarity", "block_influence")


def student(**values) -> Student:
    return Student.model_validate(values)


def start(values: Student, teacher, *, seed: int = 0, calibration=None) -> Bank:
    return initial_bank(values, teacher, architecture_of(teacher.config, "tiny"), seed=seed, calibration_NL=calibration)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"n": 2, "first": 1, "last": 2}, (0, 2, 4, 6, 7)),  # Equation 2
        ({"n": 2, "first": 2, "last": 1}, (0, 1, 3, 5, 7)),  # Equation 3
        ({"n": 3, "first": 1, "last": 1}, (0, 3, 6, 7)),
        ({"n": 4, "first": 1, "last": 0}, (0, 4)),
    ],
)
def test_every_nth_keeps_the_layers_of_the_paper(rule: dict, kept: tuple[int, ...]) -> None:
    teacher = tiny_model(tiny_config("llama", 8), 0)
    bank = start(student(initialise={"method": "every_nth", **rule}), teacher)
    assert bank.blocks == BlockMap(kept, 8)


@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("method", MEASURED)
def test_layers_that_do_nothing_are_not_kept_and_the_others_are_the_teachers(method: str, kind: str) -> None:
    teacher = with_idle_layers(2, 4)
    values = student(kind=kind, rank=RANK, initialise={"method": method, "layers": 4, "longest_block": 3})
    bank = start(values, teacher, calibration=IDS)
    assert bank.blocks.kept == (0, 1, 3, 5)
    # What was left out did nothing, so the student still says what the teacher says.
    torch.testing.assert_close(logits(bank.student), logits(bank.teacher), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", MEASURED)
def test_recipe_and_text_alone_decide(method: str) -> None:
    teacher = tiny_model(tiny_config("gpt2", 6), 0)
    values = student(kind="delta", rank=RANK, initialise={"method": method, "layers": 3, "longest_block": 4})
    one, other = (start(values, teacher, seed=3, calibration=IDS) for _ in range(2))
    assert one.blocks == other.blocks
    for name, tensor in one.student.state_dict().items():
        assert torch.equal(tensor, other.student.state_dict()[name])


@pytest.mark.parametrize("method", MEASURED)
def test_what_must_be_measured_asks_for_text(method: str) -> None:
    values = student(initialise={"method": method, "layers": 3})
    with torch.device("meta"):
        weightless = AutoModelForCausalLM.from_config(tiny_config("llama", 6))
    for teacher in (tiny_model(tiny_config("llama", 6), 0), weightless):
        with pytest.raises(SettingsError, match=f"anysize-train init TEACHER --method {method} --layers 3"):
            start(values, teacher)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_random_weights_are_those_that_transformers_gives_a_new_model(architecture: str) -> None:
    teacher = tiny_model(tiny_config(architecture, 6), 0)
    values = student(weights="random", initialise={"method": "layers", "layers": [0, 2, 5]})
    random_before = torch.random.get_rng_state()
    bank = start(values, teacher, seed=7)
    assert torch.equal(torch.random.get_rng_state(), random_before)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        fresh = AutoModelForCausalLM.from_config(student_config(copy.deepcopy(teacher.config), bank.blocks))
    assert bank.student.state_dict().keys() == fresh.state_dict().keys()
    for name, tensor in bank.student.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])
    assert not {id(parameter) for parameter in teacher.parameters()} & {id(p) for p in bank.student.parameters()}
    other = start(values, teacher, seed=8)
    assert not torch.equal(logits(other.student), logits(bank.student))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_weights_are_those_of_equation_4(architecture: str) -> None:
    teacher = tiny_model(tiny_config(architecture, 6), 0)
    values = student(weights="merged", initialise={"method": "layers", "layers": [0, 2, 5]})
    bank = start(values, teacher)
    layers = [layer_tensors(teacher, layer) for layer in range(6)]
    expected = stacked(teacher, [merged(layers[:2]), merged(layers[2:5]), layers[5]], [0, 2, 5])
    torch.testing.assert_close(logits(bank.student), logits(expected), rtol=1e-4, atol=1e-4)
    assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in bank.student.parameters()}


@pytest.mark.parametrize("weights", ["merged", "random"])
def test_updates_over_kept_layers_cannot_begin_elsewhere(weights: str) -> None:
    with pytest.raises(ValidationError, match=f"{weights} weights are for full students"):
        student(kind="delta", weights=weights)


def family_of(tmp_path: Path, kind: Kind, architecture: str = "llama") -> tuple[Family, Path]:
    folder = tmp_path / "family"
    write_tiny_family(folder, kind=kind, architecture=architecture)
    return Family.load(folder, dtype=torch.float32, device=CPU), folder


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_family_goes_on_from_its_student(kind: Kind, architecture: str, tmp_path: Path) -> None:
    family, folder = family_of(tmp_path, kind, architecture)
    values = student(kind=kind, rank=RANK, initialise={"method": "family", "path": str(folder)})
    bank = start(values, family.bank.teacher)
    assert bank.blocks == family.bank.blocks
    assert torch.equal(logits(bank.student), logits(family.bank.student))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_larger_rank_changes_nothing_yet(architecture: str, tmp_path: Path) -> None:
    family, folder = family_of(tmp_path, "delta", architecture)
    values = student(kind="delta", rank=RANK + 3, initialise={"method": "family", "path": str(folder)})
    bank = start(values, family.bank.teacher)
    stored = own_tensors(family.bank.student, family.bank.teacher)
    wider = own_tensors(bank.student, bank.teacher)
    assert wider.keys() == stored.keys()
    for name, tensor in wider.items():
        if name.endswith(".up"):
            assert torch.equal(tensor[:, :RANK], stored[name])
            assert not tensor[:, RANK:].any()
        elif name.endswith(".down"):
            assert torch.equal(tensor[:RANK], stored[name])
            assert tensor[RANK:].any(dim=1).all()  # else the new directions would never get a gradient
        else:
            assert torch.equal(tensor, stored[name])
    torch.testing.assert_close(logits(bank.student), logits(family.bank.student), rtol=0, atol=1e-5)


def test_a_full_student_starts_from_merged_updates(tmp_path: Path) -> None:
    family, folder = family_of(tmp_path, "delta")
    values = student(kind="full", initialise={"method": "family", "path": str(folder)})
    bank = start(values, family.bank.teacher)
    plain = AutoModelForCausalLM.from_config(student_config(copy.deepcopy(family.bank.teacher.config), bank.blocks))
    assert bank.student.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(logits(bank.student), logits(family.bank.student), rtol=1e-4, atol=1e-4)
    assert not {p.data_ptr() for p in bank.teacher.parameters()} & {p.data_ptr() for p in bank.student.parameters()}


@pytest.mark.parametrize(
    ("of_family", "wanted", "reason"),
    [
        ("delta", {"kind": "delta", "rank": RANK - 1}, f"rank to {RANK} or more"),
        ("full", {"kind": "delta", "rank": RANK}, "student.kind to full"),
    ],
)
def test_a_student_that_could_not_hold_what_was_learnt_is_refused(
    of_family: Kind, wanted: dict, reason: str, tmp_path: Path
) -> None:
    family, folder = family_of(tmp_path, of_family)
    with pytest.raises(SettingsError, match=reason):
        start(student(**wanted, initialise={"method": "family", "path": str(folder)}), family.bank.teacher)


@pytest.mark.parametrize("other", [tiny_config("qwen3", 6), tiny_config("llama", 7)], ids=["kind", "depth"])
def test_a_family_of_another_teacher_is_refused(other, tmp_path: Path) -> None:
    _, folder = family_of(tmp_path, "full")
    with pytest.raises(SettingsError, match="family of the same teacher"):
        start(student(initialise={"method": "family", "path": str(folder)}), tiny_model(other, 0))


@pytest.mark.parametrize("damage", ["changed", "missing", "unlisted"])
def test_a_damaged_family_is_refused(damage: str, tmp_path: Path) -> None:
    family, folder = family_of(tmp_path, "full")
    path = folder / STUDENT
    if damage == "changed":
        # The family's files may be links to what is mapped into memory, so the file is replaced, not written to.
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.unlink()
        path.write_bytes(raw)
    elif damage == "missing":
        path.unlink()
    else:
        manifest = json.loads((folder / "family.json").read_text())
        del manifest["files"][STUDENT]
        (folder / "family.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=STUDENT):
        start(student(initialise={"method": "family", "path": str(folder)}), family.bank.teacher)


@pytest.mark.parametrize("kind", ["full", "delta"])
def test_a_teacher_without_weights_still_gives_the_shapes(kind: Kind, tmp_path: Path) -> None:
    family, folder = family_of(tmp_path, kind)
    with torch.device("meta"):
        teacher = AutoModelForCausalLM.from_config(family.bank.teacher.config)
    for values in (
        student(kind=kind, rank=RANK, initialise={"method": "family", "path": str(folder)}),
        student(kind="full", weights="random", initialise={"method": "layers", "layers": [0, 2, 5]}),
        student(kind="full", weights="merged", initialise={"method": "layers", "layers": [0, 2, 5]}),
    ):
        bank = start(values, teacher)
        assert {parameter.device.type for parameter in bank.student.parameters()} == {"meta"}
        assert bank.blocks == family.bank.blocks
