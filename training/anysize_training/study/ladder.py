"""The best subset of positions for each size, by KL divergence to the teacher: a ladder that need not be nested.

Sizes reachable by patching are few, subsets many. All subsets of the blocks of more than one layer are scored by
walking the tree of choices from the first position to the last, so that variants with a common beginning share its
hidden states. Blocks of one layer change no size; each is then decided for the best subset of each size.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.errors import SettingsError
from anysize.family.assembly import assemble
from anysize.family.bank import Bank
from anysize.family.variant import LayerRef, Owner, Variant
from anysize_training.study.texts import Windows

_MOST_POSITIONS = 14


@dataclass(frozen=True, slots=True)
class Scored:
    """A variant and its mean KL(teacher || variant) of a token, in nats."""

    variant: Variant
    kl: float


class LadderSearch:
    """Scores variants of one bank on a small text, all of which is run at once.

    Args:
        bank: the weights.
        windows: the calibration text.

    Raises:
        SettingsError: the family has too many positions to try every subset.
    """

    def __init__(self, bank: Bank, windows: Windows) -> None:
        self._bank = bank
        self._blocks = bank.blocks.blocks
        self._free = frozenset(position for position, block in enumerate(self._blocks) if len(block) > 1)
        if len(self._free) > _MOST_POSITIONS:
            raise SettingsError(
                f"{len(self._free)} positions make 2^{len(self._free)} subsets; at most {_MOST_POSITIONS} can be tried"
            )
        positions = len(self._blocks)
        inputs_NL = windows.tokens_NL[:, :-1].to(next(bank.teacher.parameters()).device)
        teacher = assemble(bank, Variant.teacher(positions))
        student = assemble(bank, Variant.student(positions))
        self._models = {Owner.TEACHER: teacher, Owner.STUDENT: student}
        # Besides hidden states a layer wants masks and rotary angles, which depend on its kind of attention alone.
        last_NLD, self._embedded, self._calls = {}, {}, {}
        for owner, model in self._models.items():
            last_NLD[owner], self._embedded[owner], self._calls[owner] = _recorded_calls(bank, model, inputs_NL)
        self._teacher_NLV = self._log_probabilities(last_NLD[Owner.TEACHER], Owner.TEACHER)

    @torch.inference_mode()
    def best(self) -> dict[int, Scored]:
        """For each depth that patching reaches, the variant with the least KL divergence."""
        best: dict[int, Scored] = {}
        with tqdm(total=2 ** len(self._free), desc="trying subsets", unit="size") as progress:
            for scored in self._below(self._embedded[Owner.STUDENT], ()):
                progress.update()
                self._keep(best, scored)
        single = [position for position in range(len(self._blocks)) if position not in self._free]
        for leader in tqdm(list(best.values()), desc="single-layer blocks", unit="size"):
            for choices in product((False, True), repeat=len(single)):
                choice = list(leader.variant.choice)
                for position, patched in zip(single, choices, strict=True):
                    choice[position] = patched
                if any(choices):
                    self._keep(best, self.score(Variant(tuple(choice))))
        return dict(sorted(best.items()))

    @torch.inference_mode()
    def score(self, variant: Variant) -> Scored:
        """Score one variant."""
        hidden_NLD = self._embedded[variant.embedding_owner]
        for position, patched in enumerate(variant.choice):
            hidden_NLD = self._run(hidden_NLD, position, patched=patched)
        return Scored(variant, self._divergence(hidden_NLD, variant.head_owner))

    def _below(self, hidden_NLD: Tensor, choice: tuple[bool, ...]) -> Iterator[Scored]:
        position = len(choice)
        if position == len(self._blocks):
            variant = Variant(choice)
            yield Scored(variant, self._divergence(hidden_NLD, variant.head_owner))
            return
        for patched in (False, True) if position in self._free else (False,):
            yield from self._below(self._run(hidden_NLD, position, patched=patched), (*choice, patched))

    def _run(self, hidden_NLD: Tensor, position: int, *, patched: bool) -> Tensor:
        block = self._blocks[position]
        refs = [LayerRef(Owner.TEACHER, layer) for layer in block] if patched else [LayerRef(Owner.STUDENT, position)]
        for owner, number in refs:
            layer = self._bank.architecture.layers_of(self._models[owner])[number]
            arguments, keywords = self._calls[owner][number]
            output = layer(hidden_NLD, *arguments, **keywords)
            hidden_NLD = output[0] if isinstance(output, tuple) else output
        return hidden_NLD

    def _divergence(self, hidden_NLD: Tensor, owner: Owner) -> float:
        norm = self._bank.architecture.norm_of(self._models[owner])
        ours_NLV = self._log_probabilities(norm(hidden_NLD), owner)
        return F.kl_div(ours_NLV, self._teacher_NLV, reduction="sum", log_target=True).item() / self._tokens

    @property
    def _tokens(self) -> int:
        return self._teacher_NLV.shape[0] * self._teacher_NLV.shape[1]

    @torch.inference_mode()
    def _log_probabilities(self, normed_NLD: Tensor, owner: Owner) -> Tensor:
        head = self._bank.architecture.head_of(self._models[owner])
        return F.log_softmax(head(normed_NLD).float(), dim=-1)

    def _keep(self, best: dict[int, Scored], scored: Scored) -> None:
        depth = scored.variant.depth(self._bank.blocks)
        if depth not in best or scored.kl < best[depth].kl:
            best[depth] = scored


def falling(best: Mapping[int, Scored]) -> list[Scored]:
    """The sizes worth serving: each is closer to the teacher than every smaller one."""
    kept: list[Scored] = []
    for _, scored in sorted(best.items()):
        if not kept or scored.kl < kept[-1].kl:
            kept.append(scored)
    return kept


Call = tuple[tuple[Any, ...], dict[str, Any]]


@torch.inference_mode()
def _recorded_calls(bank: Bank, model: PreTrainedModel, inputs_NL: Tensor) -> tuple[Tensor, Tensor, Sequence[Call]]:
    """Run a model; its last hidden state, what its first layer was given, and how each layer was called besides."""
    calls: list[Call] = []
    embedded: list[Tensor] = []

    def record(_layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        embedded.append(arguments[0])
        calls.append((arguments[1:], keywords))

    layers = bank.architecture.layers_of(model)
    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        output = bank.architecture.backbone_of(model)(input_ids=inputs_NL, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return output.last_hidden_state, embedded[0], calls
