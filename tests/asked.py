"""Requests as a test of the model drives them step by step, and what each size alone makes of them."""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from fakes import Kind, tiny_bank, tiny_model
from torch import Tensor
from transformers import PreTrainedConfig

from anysize.engine.model import Row, Sequence
from anysize.family.architectures import architecture_of
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.blocks import BlockMap
from anysize.family.delta import delta_student
from anysize.family.variant import Variant

POSITIONS = 4
SHAPE: dict[str, Any] = {"teacher_layers": 8, "kept": (0, 2, 3, 6)}


@dataclass(eq=False)
class Asked:
    """A request as the test drives it: when it comes, how its prompt is cut, what came back."""

    choice: tuple[bool, ...]
    prompt: list[int]
    arrives: int
    chunk: int
    answer_tokens: int
    sequence: Sequence | None = None
    answer: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    @property
    def variant(self) -> Variant:
        return Variant(self.choice)

    @property
    def done(self) -> bool:
        return len(self.answer) == self.answer_tokens

    def row(self) -> Row:
        assert self.sequence is not None
        stored = self.sequence.length
        if stored >= len(self.prompt):
            return Row(self.sequence, self.answer[-1:], wants_logits=True)
        chunk = self.prompt[stored : stored + self.chunk]
        return Row(self.sequence, chunk, wants_logits=stored + len(chunk) == len(self.prompt))


@cache
def bank_of(architecture: str, kind: Kind, tied: bool = True) -> Bank:
    return tiny_bank(architecture, kind=kind, tied=tied, seed=5, **SHAPE)


def bank_of_config(config: PreTrainedConfig) -> Bank:
    """A teacher of three layers and a `delta` student of two."""
    teacher = tiny_model(config, seed=1)
    blocks = BlockMap((0, 2), 3)
    adapter = architecture_of(config, "tiny")
    return Bank(adapter, blocks, teacher, delta_student(teacher, adapter, blocks, rank=2))


def check(bank: Bank, one: Asked) -> None:
    """Tokens and logits are those of the variant alone."""
    prompt = torch.tensor([one.prompt])
    out = assemble(bank, one.variant).generate(  # pyright: ignore[reportCallIssue]
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=one.answer_tokens,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert one.answer == out.sequences[0, prompt.shape[1] :].tolist(), one.variant.id
    torch.testing.assert_close(torch.stack(one.logits), torch.cat(out.logits), rtol=1e-4, atol=2e-5)
