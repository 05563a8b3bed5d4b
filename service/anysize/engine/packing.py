"""What each call of a layer in a step reads and writes of the rows' keys and values."""

from collections import abc
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from anysize.engine.kernels.kernels import Kernels
from anysize.engine.pages import PagePool
from anysize.engine.plan import Plan
from anysize.engine.sequence import Row, Sequence

Masks = dict[tuple[int, int, int | None], Tensor]

# Rows of one token that have stored at most so many attend in one call, to copies; see `attention`. How many are worth
# it on a GPU, where a call costs more and a copy less, was not measured.
_MOST_TOGETHER = {"cpu": 256}
_MOST_TOGETHER_ELSEWHERE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Rows of one token that attend in one call.

    Attributes:
        tokens: which of the packed tokens they bring.
        tokens_R: the same.
        slots_RL: where the tokens that they attend to are stored; past the last of a row's own, that of its first.
        own_RL: which of these are a row's own.
    """

    tokens: list[int]
    tokens_R: Tensor
    slots_RL: Tensor
    own_RL: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PackedKV:
    """The keys and values that one call of a layer writes and reads.

    Attributes:
        pool: where they are.
        slots_T: where those of the packed tokens go.
        kernels: compiled ones that take the rows of one token, if there are any.
        single_R4: int64, as `Kernels.attend` wants these rows; empty where there are no kernels.
        together: rows of one token that attend in one call, where there are no kernels and that is worth it.
        alone: each other row: the sequence, its place that this layer is for it, and which packed tokens it brings.
        masks: of the step so far, by tokens brought, tokens seen and window; filled on the way.
    """

    pool: PagePool
    slots_T: Tensor
    kernels: Kernels | None
    single_R4: Tensor
    together: Together | None
    alone: list[tuple[Sequence, int, slice]]
    masks: Masks


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
    together = [None] * len(visits) if kernels else _together(rows, through, pool)
    masks: Masks = {}
    for pairs, slots_T, single_R4, joined in zip(
        through,
        slots_of_all.to(pool.keys_SGD.device).split(lengths),
        singles_of_all.split([*map(len, singles)]),
        together,
        strict=True,
    ):
        shared = {*single_R4[:, 1].tolist(), *(joined.tokens if joined else ())}
        alone = [
            (rows[row].sequence, place, slice(token, token + rows[row].tokens))
            for token, row, place in _tokens(rows, pairs)
            if token not in shared
        ]
        yield PackedKV(pool, slots_T, kernels, single_R4, joined, alone, masks)


def _single(rows: abc.Sequence[Row], pairs: abc.Sequence[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
    """Of the rows that bring one token: where their pages are, which packed token they bring, and what it sees."""
    return [
        (rows[row].sequence.address(place), token, 0, rows[row].start + 1)
        for token, row, place in _tokens(rows, pairs)
        if rows[row].tokens == 1
    ]


def _together(
    rows: abc.Sequence[Row], through: abc.Sequence[abc.Sequence[tuple[int, int]]], pool: PagePool
) -> list[Together | None]:
    """For each visit the rows that attend in one call, if there are two of them."""
    device = pool.keys_SGD.device
    most = _MOST_TOGETHER.get(device.type, _MOST_TOGETHER_ELSEWHERE)
    short = [number for number, row in enumerate(rows) if row.tokens == 1 and row.start < most]
    if len(short) < 2:
        return [None] * len(through)
    pages = -(-max(rows[row].start + 1 for row in short) // pool.page_tokens)
    stacks = [rows[row].sequence.first_pages(pages) for row in short]
    firsts = dict(zip(short, accumulate(map(len, stacks), initial=0), strict=False))
    # Of each visit's rows: the packed token, where its pages are in all stacks, and how many tokens it attends to.
    members = [
        [
            (token, firsts[row] + place, rows[row].start + 1)
            for token, row, place in _tokens(rows, pairs)
            if row in firsts
        ]
        for pairs in through
    ]
    of_all_N3 = torch.tensor([which for of_visit in members for which in of_visit], device=device)
    tokens_N, stacks_N, stops_N = of_all_N3.unbind(1)
    pages_NP = torch.cat(stacks).to(device).index_select(0, stacks_N)
    inside = torch.arange(pool.page_tokens, device=device)
    slots_NL = (pages_NP[:, :, None] * pool.page_tokens + inside).flatten(1)
    own_NL = torch.arange(slots_NL.shape[1], device=device) < stops_N[:, None]
    slots_NL = slots_NL.where(own_NL, slots_NL[:, :1])
    counts = [*map(len, members)]
    parts = zip(tokens_N.split(counts), slots_NL.split(counts), own_NL.split(counts), strict=True)
    return [
        Together([token for token, _, _ in of_visit], *part) if len(of_visit) > 1 else None
        for of_visit, part in zip(members, parts, strict=True)
    ]


def _tokens(rows: abc.Sequence[Row], pairs: abc.Sequence[tuple[int, int]]) -> abc.Iterator[tuple[int, int, int]]:
    """Of each row of a visit: the first packed token, its number, and its place."""
    starts = accumulate((rows[row].tokens for row, _ in pairs), initial=0)
    return ((start, row, place) for start, (row, place) in zip(starts, pairs, strict=False))
