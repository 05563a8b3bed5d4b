"""What each call of a layer in a step reads and writes of the rows' keys and values."""

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.pages import PagePool
from anysize.engine.plan import Plan
from anysize.engine.sequence import Row, Sequence

Masks = dict[tuple[int, int, int | None], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class PackedKV:
    """The keys and values that one call of a layer writes and reads.

    Attributes:
        pool: where they are.
        slots_T: where those of the packed tokens go.
        rows: in packed order: the sequence, its place that this layer is for it, and how many tokens it brings.
        masks: of the step so far, by tokens brought, tokens seen and window; filled on the way.
        kernels: compiled ones that take the rows of one token, if there are any.
        single_R4: int64, as `Kernels.attend` wants these rows; empty where there are no kernels.
    """

    pool: PagePool
    slots_T: Tensor
    rows: list[tuple[Sequence, int, int]]
    masks: Masks
    kernels: Kernels | None
    single_R4: Tensor


def packed_kvs(plan: Plan, rows: abc.Sequence[Row], pool: PagePool, kernels: Kernels | None) -> abc.Iterator[PackedKV]:
    """What each visit of a plan writes and reads, in order."""
    slots = [row.sequence.slots(row.sequence.length, row.sequence.length + len(row.token_ids)) for row in rows]
    visits = [visit for position in plan.positions for visit in position.visits]
    through = [[*zip(visit.rows, visit.places, strict=True)] for visit in visits]
    # Joined for all visits at once, so that a GPU is sent one tensor a step.
    slots_of_all = torch.cat([slots[row][place] for pairs in through for row, place in pairs])
    lengths = [visit.tokens.stop - visit.tokens.start for visit in visits]
    singles = [_single(rows, pairs) if kernels else [] for pairs in through]
    singles_of_all = torch.tensor([row for of_visit in singles for row in of_visit], dtype=torch.int64).view(-1, 4)
    masks: Masks = {}
    for pairs, slots_T, single_R4 in zip(
        through,
        slots_of_all.to(pool.keys_SGD.device).split(lengths),
        singles_of_all.split([*map(len, singles)]),
        strict=True,
    ):
        brought = [(rows[row].sequence, place, len(rows[row].token_ids)) for row, place in pairs]
        yield PackedKV(pool, slots_T, brought, masks, kernels, single_R4)


def _single(rows: abc.Sequence[Row], pairs: abc.Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Of the rows that bring one token: where their pages are, which packed token they bring, and what it sees."""
    found: list[tuple[int, int, int, int]] = []
    token = 0
    for row, place in pairs:
        sequence, tokens = rows[row].sequence, len(rows[row].token_ids)
        if tokens == 1:
            found.append((sequence.address(place), token, 0, sequence.length + 1))
        token += tokens
    return found
