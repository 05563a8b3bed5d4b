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
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def logits(self, hidden_TD: Tensor, owners: abc.Sequence[Owner], tokens: abc.Sequence[int]) -> Tensor:
        """Logits [R, V] after R of the packed tokens.

        Args:
            hidden_TD: after the last layer.
            owners: whose norm and head each of the R takes.
            tokens: where they are, in the order in which their logits are wanted.
        """
        if not tokens:
            return hidden_TD.new_empty(0, self._vocabulary)
        of_owner = {owner: [row for row, one in enumerate(owners) if one is owner] for owner in dict.fromkeys(owners)}
        places = {owner: torch.tensor(rows, device=hidden_TD.device) for owner, rows in of_owner.items()}
        last_RD = hidden_TD.index_select(0, torch.tensor(tokens, device=hidden_TD.device))
        normed = {owner: self._norms[owner](last_RD.index_select(0, rows_N)) for owner, rows_N in places.items()}
        if self._share_head:
            return self._heads[Owner.TEACHER](_together(normed, places))
        return _together({owner: self._heads[owner](part_ND) for owner, part_ND in normed.items()}, places)


def _runs_by_owner(packed: abc.Sequence[Row]) -> list[tuple[Owner, list[int]]]:
    """Token ids of neighbouring rows whose embedding has the same owner, joined."""
    runs: list[tuple[Owner, list[int]]] = []
    for row in packed:
        owner = row.sequence.variant.embedding_owner
        if not runs or runs[-1][0] is not owner:
            runs.append((owner, []))
        runs[-1][1].extend(row.token_ids)
    return runs


def _together(parts: dict[Owner, Tensor], places: dict[Owner, Tensor]) -> Tensor:
    """The rows of several owners, each at its place."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    first = next(iter(parts.values()))
    whole = first.new_empty(sum(map(len, parts.values())), first.shape[1])
    for owner, part in parts.items():
        whole.index_copy_(0, places[owner], part)
    return whole
