"""`delta` students and what sizes cost: updates against dense weights, counts against counts by hand."""

from functools import cache

import pytest
import torch
from fakes import ARCHITECTURES, RANK, Kind, byte_tokenizer, tiny_bank, tiny_config, tiny_model, untrained_student
from references import all_variants, some_tokens
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, Qwen3Config
from transformers.pytorch_utils import Conv1D

from anysize.family.architectures import architecture_of
from anysize.family.assembly import assemble, student_config
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.delta import DeltaLinear, delta_student, load_own_tensors, merge_updates, own_tensors
from anysize.family.export import export_variant
from anysize.family.footprint import footprint_of
from anysize.family.pretrained import expected_shapes, file_shapes
from anysize.family.variant import Variant

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@cache
def shared_bank(architecture: str, kind: Kind = "delta", tied: bool = True) -> Bank:
    return tiny_bank(architecture, kind=kind, tied=tied)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_an_update_is_a_change_of_the_dense_weight(kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(12, 20, bias=bias) if kind == "linear" else Conv1D(20, 12)
    if kind == "conv1d":
        nn.init.normal_(base.bias)
    updated = DeltaLinear(base, rank=3)
    nn.init.normal_(updated.up)
    x = torch.randn(2, 5, 12)

    weight_OI = base.weight if kind == "linear" else base.weight.T
    dense_OI = weight_OI.double() + updated.up.double() @ updated.down.double()
    expected = x.double() @ dense_OI.T + (0 if base.bias is None else base.bias.double())
    torch.testing.assert_close(updated(x).double(), expected, rtol=1e-5, atol=1e-5)
    plain = updated.merged()
    torch.testing.assert_close(plain(x).double(), expected, rtol=1e-5, atol=1e-5)
    assert type(plain) is type(base)
    assert not {tensor.data_ptr() for tensor in plain.parameters() if tensor.dim() > 1} & {base.weight.data_ptr()}


@every_architecture
def test_a_new_student_equals_the_kept_layers_bit_for_bit(architecture: str) -> None:
    config = tiny_config(architecture, 6)
    teacher, blocks = tiny_model(config, 0), BlockMap((0, 2, 5), 6)
    student = delta_student(teacher, architecture_of(config, "tiny"), blocks, RANK)
    kept = untrained_student(Bank(architecture_of(config, "tiny"), blocks, teacher, student))
    tokens = some_tokens()
    with torch.no_grad():
        assert torch.equal(student(tokens).logits, kept(tokens).logits)


@every_architecture
def test_own_tensors_are_the_updates_and_the_norms(architecture: str) -> None:
    bank = shared_bank(architecture)
    own = own_tensors(bank.student, bank.teacher)
    teachers = {tensor.data_ptr() for tensor in bank.teacher.parameters()}
    by_pointer = {name for name, tensor in bank.student.named_parameters() if tensor.data_ptr() not in teachers}
    assert own.keys() == by_pointer
    norms = {name for name in own if not name.endswith((".up", ".down"))}
    assert all("norm" in name or ".ln_" in name for name in norms)
    assert not {name for name in own if "emb" in name or "wte" in name or "wpe" in name or "lm_head" in name}
    linears = sum(
        isinstance(part, nn.Linear | Conv1D) for part in bank.architecture.layers_of(bank.teacher)[0].modules()
    )
    assert len(own) - len(norms) == 2 * linears * bank.blocks.student_layers


@every_architecture
def test_own_tensors_alone_bring_a_student_back(architecture: str) -> None:
    bank = shared_bank(architecture)
    stored = {name: tensor.clone() for name, tensor in own_tensors(bank.student, bank.teacher).items()}
    again = delta_student(bank.teacher, bank.architecture, bank.blocks, RANK)
    load_own_tensors(again, bank.teacher, stored)
    tokens = some_tokens()
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, bank.student(tokens).logits)


@every_architecture
def test_making_a_student_leaves_the_teacher_as_it_was(architecture: str) -> None:
    config = tiny_config(architecture, 6)
    teacher, twin = tiny_model(config, 0), tiny_model(config, 0)
    student = delta_student(teacher, architecture_of(config, "tiny"), BlockMap((0, 2, 5), 6), RANK)
    with torch.no_grad():
        for parameter in own_tensors(student, teacher).values():
            parameter.fill_(7.0)
    assert [type(module) for module in teacher.modules()] == [type(module) for module in twin.modules()]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(teacher.parameters(), twin.parameters(), strict=True))


@every_architecture
def test_merging_the_updates_keeps_the_logits_and_leaves_the_bank(architecture: str) -> None:
    bank, tokens = shared_bank(architecture), some_tokens()
    for variant in all_variants(3):
        model = assemble(bank, variant)
        merged = merge_updates(model)
        assert not any(isinstance(part, DeltaLinear) for part in merged.modules())
        with torch.no_grad():
            torch.testing.assert_close(merged(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
    assert any(isinstance(part, DeltaLinear) for part in bank.student.modules())


@pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [("llama", "delta", True), ("llama", "full", False), ("gpt2", "delta", True), ("gpt_neox", "full", False)],
)
def test_parameters_are_those_of_the_exported_checkpoint(
    architecture: str, kind: Kind, tied: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bank, tokenizer = shared_bank(architecture, kind, tied), byte_tokenizer()
    root = tmp_path_factory.mktemp("exports")
    for variant in all_variants(3):
        folder = export_variant(bank, tokenizer, variant, root / variant.id, card="")
        shapes = file_shapes(folder / "model.safetensors")
        stored = sum(torch.Size(shape).numel() for shape in shapes.values())
        head = bank.teacher.lm_head.weight.numel()
        left_out = 0 if shapes.keys() & {"lm_head.weight", "embed_out.weight"} else head
        assert footprint_of(bank, variant).parameters == stored + left_out, variant.id


@every_architecture
@pytest.mark.parametrize("kind", ["full", "delta"])
@pytest.mark.parametrize("tied", [True, False])
def test_distinct_parameters_are_counted_by_where_they_lie(architecture: str, kind: Kind, tied: bool) -> None:
    bank = shared_bank(architecture, kind, tied)
    for variant in all_variants(3):
        by_pointer = {tensor.data_ptr(): tensor for tensor in assemble(bank, variant).parameters()}
        footprint = footprint_of(bank, variant)
        assert footprint.distinct_parameters == sum(tensor.numel() for tensor in by_pointer.values())
        assert footprint.bytes == sum(tensor.untyped_storage().nbytes() for tensor in by_pointer.values())


@every_architecture
def test_a_delta_size_counts_as_the_full_size_it_equals(architecture: str) -> None:
    delta, full = shared_bank(architecture, "delta"), shared_bank(architecture, "full")
    for variant in all_variants(3):
        assert footprint_of(delta, variant).parameters == footprint_of(full, variant).parameters


_QWEN3_4B = Qwen3Config(
    vocab_size=151936,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)


def _pythia(hidden: int, vocabulary: int) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=32,
        num_attention_heads=32,
        tie_word_embeddings=False,
    )


_LLAMA_3B = LlamaConfig(
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    tie_word_embeddings=True,
)


@pytest.mark.parametrize(
    ("config", "first", "last", "teacher_b", "student_b"),
    [
        # Without Qwen3-8B: its head is not tied, so it has 8.2 B; the table's 8.8 B counts the head once more.
        (_QWEN3_4B, 1, 2, 4.4, 2.7),
        (_pythia(2560, 50304), 1, 2, 2.8, 1.6),
        (_pythia(4096, 50432), 1, 2, 6.9, 3.8),
        (_LLAMA_3B, 2, 1, 3.6, 2.3),
    ],
    ids=["Qwen3-4B", "Pythia-2.8B", "Pythia-6.9B", "Llama-3.2-3B"],
)
def test_inference_parameters_are_those_of_table_1(
    config: PreTrainedConfig, first: int, last: int, teacher_b: float, student_b: float
) -> None:
    blocks = BlockMap.every_nth(config.num_hidden_layers, first=first, last=last)
    with torch.device("meta"):
        teacher = AutoModelForCausalLM.from_config(config)
        student = AutoModelForCausalLM.from_config(student_config(config, blocks))
    bank = Bank(architecture_of(config, "paper"), blocks, teacher, student)
    sizes = [footprint_of(bank, make(blocks.student_layers)).parameters for make in (Variant.teacher, Variant.student)]
    assert [round(size / 1e9, 1) for size in sizes] == [teacher_b, student_b]
    stored = sum(torch.Size(shape).numel() for shape in expected_shapes(config).values())
    assert sizes[0] == stored
