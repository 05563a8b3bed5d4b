"""Both ends of a step: embeddings before the layers, final norms and LM heads after them, each by its owner.

A row's embedding is that of the owner of its first layer, its norm and head those of the owner of its last (paper,
2.3). A head that both owners share is applied once.
"""

from collections import abc

import torch
from torch import Tensor, nn

from anysize.engine.sequence import Row
from anysize.family.assembly import view
from anysize.family.bank import Bank
from anysize.family.variant import Owner


class Ends:
    """Views of the embeddings, final norms and LM heads of teacher and student.

    Args:
        bank: the weights.
        tune: makes views faster.
    """

    def __init__(self, bank: Bank, tune: abc.Callable[[nn.Module], nn.Module]) -> None:
        architecture = bank.architecture
        models = {owner: bank.model(owner) for owner in Owner}
        self._embeddings = {
            owner: [view(module) for module in architecture.embeddings_of(model).values()]
            for owner, model in models.items()
        }
        self._norms = {owner: tune(view(architecture.norm_of(model))) for owner, model in models.items()}
        self._heads = {owner: tune(view(architecture.head_of(model))) for owner, model in models.items()}
        self._share_head = bank.shares_head
        self._vocabulary = bank.teacher.config.vocab_size

    def embed(self, packed: abc.Sequence[Row], positions_1T: Tensor) -> Tensor:
        """Hidden states [1, T, D] of the tokens of packed rows.

        Args:
            packed: the rows, in packed order.
            positions_1T: of their tokens.
        """
        parts: list[Tensor] = []
        start = 0
        for owner, ids in _runs_by_owner(packed):
            of_tokens, *of_positions = self._embeddings[owner]
            here_1N = positions_1T[:, start : start + len(ids)]
            hidden_1ND = of_tokens(torch.tensor([ids], device=positions_1T.device))
            for embedding in of_positions:
                hidden_1ND = hidden_1ND + embedding(here_1N)
            parts.append(hidden_1ND)
            start += len(ids)
        return _joined(parts, dim=1)

    def logits(self, hidden_TD: Tensor, owners: abc.Sequence[Owner], tokens: abc.Sequence[int]) -> Tensor:
        """Logits [R, V] after R of the packed tokens.

        Args:
            hidden_TD: after the last layer.
            owners: whose norm and head each of the R takes.
            tokens: where they are, in the order in which their logits are wanted.
        """
        order = sorted(range(len(tokens)), key=lambda wanted: owners[wanted])
        normed: dict[Owner, Tensor] = {}
        for owner in dict.fromkeys(owners[wanted] for wanted in order):
            of_owner = [tokens[wanted] for wanted in order if owners[wanted] is owner]
            normed[owner] = self._norms[owner](hidden_TD[torch.tensor(of_owner, device=hidden_TD.device)])
        if not normed:
            return hidden_TD.new_empty(0, self._vocabulary)
        if self._share_head:
            logits_RV = self._heads[Owner.TEACHER](_joined([*normed.values()]))
        else:
            logits_RV = _joined([self._heads[owner](part_ND) for owner, part_ND in normed.items()])
        if order == sorted(order):
            return logits_RV
        back = sorted(range(len(order)), key=order.__getitem__)
        return logits_RV[torch.tensor(back, device=hidden_TD.device)]


def _runs_by_owner(packed: abc.Sequence[Row]) -> list[tuple[Owner, list[int]]]:
    """Token ids of neighbouring rows whose embedding has the same owner, joined."""
    runs: list[tuple[Owner, list[int]]] = []
    for row in packed:
        owner = row.sequence.variant.embedding_owner
        if not runs or runs[-1][0] is not owner:
            runs.append((owner, []))
        runs[-1][1].extend(row.token_ids)
    return runs


def _joined(parts: list[Tensor], dim: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
