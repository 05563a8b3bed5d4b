"""What each call of a layer in a step reads and writes of the rows' keys and values."""

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """

    pool: PagePool
    slots_T: Tensor
    rows: list[tuple[Sequence, int, int]]
    masks: Masks


def packed_kvs(plan: Plan, rows: abc.Sequence[Row], pool: PagePool) -> abc.Iterator[PackedKV]:
    """What each visit of a plan writes and reads, in order."""
    slots = [row.sequence.slots(row.sequence.length, row.sequence.length + len(row.token_ids)) for row in rows]
    visits = [visit for position in plan.positions for visit in position.visits]
    through = [[*zip(visit.rows, visit.places, strict=True)] for visit in visits]
    # Joined for all visits at once, so that a GPU is sent one tensor a step.
    slots_of_all = torch.cat([slots[row][place] for pairs in through for row, place in pairs])
    lengths = [visit.tokens.stop - visit.tokens.start for visit in visits]
    masks: Masks = {}
    for pairs, slots_T in zip(through, slots_of_all.to(pool.keys_SGD.device).split(lengths), strict=True):
        yield PackedKV(
            pool, slots_T, [(rows[row].sequence, place, len(rows[row].token_ids)) for row, place in pairs], masks
        )
