"""Assembled variants: equal to models put together by hand, and nothing but references into the bank."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from fakes import ARCHITECTURES, Kind, tiny_bank, untrained_student
from references import all_variants, reference_model, snapshot, some_tokens
from torch import Tensor, nn
from transformers import PreTrainedModel

from anysize.family import assembly
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import Owner, Variant

KEPT = (0, 2, 3, 5)
POSITIONS = len(KEPT)

every_bank = pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [(name, kind, tied) for name in ARCHITECTURES for kind in ("full", "delta") for tied in (True, False)],
)
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@cache
def shared_bank(architecture: str, kind: Kind, tied: bool = True) -> Bank:
    """A bank that many tests read; that none of them changes it is a test of its own."""
    return tiny_bank(architecture, teacher_layers=7, kept=KEPT, kind=kind, tied=tied)


@torch.no_grad()
def logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    return model(tokens).logits


def greedy(model: PreTrainedModel, tokens: Tensor, *, use_cache: bool = True, new: int = 8, **more: Tensor) -> Tensor:
    mask = more.pop("attention_mask", torch.ones_like(tokens))
    # No end token, so that every answer has the same length.
    return model.generate(  # pyright: ignore[reportCallIssue]  (transformers hides the signature)
        tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, use_cache=use_cache, eos_token_id=None, **more
    )


@every_bank
def test_nothing_patched_is_the_student_and_everything_patched_the_teacher_bit_for_bit(
    architecture: str, kind: Kind, tied: bool
) -> None:
    bank, tokens = shared_bank(architecture, kind, tied), some_tokens()
    assert torch.equal(logits(assemble(bank, Variant.student(POSITIONS)), tokens), logits(bank.student, tokens))
    assert torch.equal(logits(assemble(bank, Variant.teacher(POSITIONS)), tokens), logits(bank.teacher, tokens))


@every_bank
def test_every_size_equals_the_model_put_together_by_hand(architecture: str, kind: Kind, tied: bool) -> None:
    bank, tokens = shared_bank(architecture, kind, tied), some_tokens(length=12)
    seen: list[Tensor] = []
    for variant in all_variants(POSITIONS):
        ours, reference = logits(assemble(bank, variant), tokens), logits(reference_model(bank, variant), tokens)
        assert torch.equal(ours, reference), variant.id
        seen.append(ours)
    # The models differ, so equality above means something.
    assert len({tensor.sum().item() for tensor in seen}) == len(seen)


@every_architecture
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_decoding_with_a_cache_equals_decoding_without(architecture: str, kind: Kind) -> None:
    bank, tokens = shared_bank(architecture, kind), some_tokens(rows=1, length=5)
    for variant in all_variants(POSITIONS)[::3]:
        model = assemble(bank, variant)
        cached = greedy(model, tokens)
        assert torch.equal(cached, greedy(model, tokens, use_cache=False)), variant.id
        assert torch.equal(cached, greedy(reference_model(bank, variant), tokens)), variant.id


@every_bank
def test_a_size_holds_no_tensor_that_is_not_in_the_bank(architecture: str, kind: Kind, tied: bool) -> None:
    bank = shared_bank(architecture, kind, tied)
    pointers = {tensor.data_ptr() for tensor in bank.tensors()}
    for variant in all_variants(POSITIONS):
        model = assemble(bank, variant)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            assert tensor.data_ptr() in pointers, f"{variant.id}: {name}"
            assert not tensor.requires_grad


@every_bank
def test_no_module_and_no_container_is_shared(architecture: str, kind: Kind, tied: bool) -> None:
    bank = shared_bank(architecture, kind, tied)
    variant = Variant.of(POSITIONS, [2])
    models = [bank.teacher, bank.student, assemble(bank, variant), assemble(bank, variant)]
    owned = [_mutable_parts(model) for model in models]
    for first in range(1, len(models)):
        for second in range(max(first + 1, 2), len(models)):
            assert not owned[first] & owned[second]
    assert not owned[0] & (owned[2] | owned[3])


def _mutable_parts(model: PreTrainedModel) -> set[int]:
    """Identities of all module objects, of the containers that torch writes to, and of the configs."""
    found: set[int] = {id(model.config), id(model.generation_config)}
    for module in model.modules():
        found.add(id(module))
        found |= {id(vars(module)[name]) for name, held in vars(nn.Module()).items() if isinstance(held, dict | set)}
    return found


@every_architecture
@pytest.mark.parametrize("kind", ["full", "delta"])
def test_nothing_in_the_bank_changes_by_assembling_and_running(architecture: str, kind: Kind) -> None:
    bank = tiny_bank(architecture, kind=kind)
    before = snapshot(bank)
    tokens = some_tokens(rows=1)
    for variant in all_variants(3):
        model = assemble(bank, variant)
        greedy(model, tokens, new=3)
        with torch.no_grad():
            output = model(tokens, output_hidden_states=True)
        assert len(output.hidden_states) == variant.depth(bank.blocks) + 1
        model.train()
        for module in model.modules():
            module.register_forward_hook(lambda *_: None)
        model.config.use_cache = False
        model.generation_config.max_new_tokens = 1
        next(model.children()).register_buffer("planted", torch.zeros(1))
    assert snapshot(bank) == before


@every_architecture
def test_a_size_has_the_config_of_its_own_depth(architecture: str) -> None:
    for tied in (True, False):
        bank = shared_bank(architecture, "full", tied)
        for variant in all_variants(POSITIONS):
            config = assemble(bank, variant).config
            assert config.num_hidden_layers == variant.depth(bank.blocks)
            same_owner = variant.choice[0] == variant.choice[-1]
            assert config.tie_word_embeddings == (tied and same_owner)


def test_kinds_of_attention_follow_the_layers() -> None:
    bank = shared_bank("qwen2", "full")
    teacher = bank.teacher.config.layer_types
    assert len(set(teacher)) == 2
    kept = [teacher[layer] for layer in KEPT]
    assert bank.student.config.layer_types == kept
    mixed = assemble(bank, Variant.of(POSITIONS, [1, 4])).config
    assert mixed.layer_types == [teacher[0], teacher[1], kept[1], kept[2], teacher[5], teacher[6]]


def test_a_sliding_window_is_kept_beyond_its_length() -> None:
    bank, tokens = shared_bank("qwen2", "full"), some_tokens(rows=1, length=30)
    variant = Variant.of(POSITIONS, [3, 4])
    reference = reference_model(bank, variant)
    assert torch.equal(logits(assemble(bank, variant), tokens), logits(reference, tokens))
    assert torch.equal(greedy(assemble(bank, variant), tokens), greedy(reference, tokens))
    assert torch.equal(
        greedy(assemble(bank, variant), tokens), greedy(assemble(bank, variant), tokens, use_cache=False)
    )


@every_architecture
def test_a_left_padded_batch_gives_what_each_row_gives_alone(architecture: str) -> None:
    model = assemble(shared_bank(architecture, "delta"), Variant.of(POSITIONS, [1, 3]))
    short, long = some_tokens(1, 4, seed=1), some_tokens(1, 7, seed=2)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), short], dim=1)
    batch = torch.cat([padded, long])
    mask = torch.ones_like(batch)
    mask[0, :3] = 0
    together = greedy(model, batch, attention_mask=mask)
    assert torch.equal(together[0, 7:], greedy(model, short)[0, 4:])
    assert torch.equal(together[1], greedy(model, long)[0])


@every_architecture
@pytest.mark.parametrize("threads", [2, 4])
def test_threads_with_different_sizes_give_what_each_size_gives_alone(architecture: str, threads: int) -> None:
    bank, tokens = shared_bank(architecture, "delta"), some_tokens(rows=1, length=6)
    variants = [Variant.student(4), Variant.teacher(4), Variant.of(4, [1, 4]), Variant.of(4, [3])][:threads]
    alone = [greedy(assemble(bank, variant), tokens) for variant in variants]
    for _ in range(3):
        assert _together(bank, variants, tokens) == [row.tolist() for row in alone]


def _together(bank: Bank, variants: list[Variant], tokens: Tensor) -> list[list[list[int]]]:
    start = threading.Barrier(len(variants))
    models = [assemble(bank, variant) for variant in variants]

    def run(model: PreTrainedModel) -> list[list[int]]:
        start.wait()
        return greedy(model, tokens).tolist()

    with ThreadPoolExecutor(len(variants)) as pool:
        return list(pool.map(run, models))


def test_sharing_attention_modules_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: a view that shares its attention module writes cache slots into the bank."""
    real: Callable[..., nn.Module] = assembly.view

    def sharing(module: nn.Module, config: object = None) -> nn.Module:
        return module if type(module).__name__.endswith("Attention") else real(module, config)

    bank, tokens = tiny_bank("llama", teacher_layers=7, kept=KEPT, kind="full"), some_tokens(rows=1, length=6)
    before, variants = snapshot(bank), [Variant.of(POSITIONS, [1]), Variant.student(POSITIONS)]
    alone = [greedy(assemble(bank, variant), tokens).tolist() for variant in variants]
    monkeypatch.setattr(assembly, "view", sharing)
    assert not _same(lambda: _together(bank, variants, tokens), alone)
    assemble(bank, variants[0])
    assert snapshot(bank) != before


def _same(run: Callable[[], object], expected: object) -> bool:
    # Two layers that write to one cache slot may also disagree about the length of the sequence.
    try:
        return run() == expected
    except (RuntimeError, IndexError):
        return False


@every_architecture
def test_an_untrained_student_is_the_teachers_kept_layers(architecture: str) -> None:
    bank, tokens = shared_bank(architecture, "full"), some_tokens()
    kept = untrained_student(bank)
    assert kept.config.num_hidden_layers == POSITIONS
    # Independently: the teacher by hand, with a student whose every layer is the first of its block.
    model = reference_model(bank, Variant.teacher(POSITIONS))
    backbone = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    name = "h" if architecture == "gpt2" else "layers"
    setattr(backbone, name, nn.ModuleList(getattr(backbone, name)[layer] for layer in KEPT))
    model.config.num_hidden_layers = POSITIONS
    if hasattr(model.config, "layer_types"):
        model.config.layer_types = [bank.teacher.config.layer_types[layer] for layer in KEPT]
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
    assert torch.equal(logits(kept, tokens), expected)
    assert {tensor.data_ptr() for tensor in kept.parameters()} <= {t.data_ptr() for t in bank.teacher.parameters()}


def test_the_bank_is_frozen_and_lists_each_tensor_once() -> None:
    for kind in ("full", "delta"):
        bank = shared_bank("llama", kind)
        listed = list(bank.tensors())
        assert len({id(tensor) for tensor in listed}) == len(listed)
        assert not any(tensor.requires_grad for tensor in listed)
        assert not bank.teacher.training
        assert bank.model(Owner.STUDENT) is bank.student
        assert bank.model(Owner.TEACHER) is bank.teacher
