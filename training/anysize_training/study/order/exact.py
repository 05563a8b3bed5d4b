"""The best patch order there is, by dynamic programming over all subsets of the positions."""

from collections.abc import Mapping
from typing import NamedTuple

from anysize.errors import SettingsError
from anysize.family.blocks import BlockMap
from anysize.family.variant import Variant

MOST_POSITIONS = 12


def check_positions(positions: int) -> None:
    """Refuse families of too many positions.

    Raises:
        SettingsError: all subsets of them are too many to be measured.
    """
    if positions > MOST_POSITIONS:
        raise SettingsError(
            f"exact measures every subset of the positions, here 2^{positions}; at most {MOST_POSITIONS} positions "
            "can be done. Take kl_greedy"
        )


def exact(cost: Mapping[Variant, float], blocks: BlockMap) -> tuple[int, ...]:
    """The patch order whose sizes have the least mean cost over all depths between student and teacher.

    Each of those depths gets the cheapest of the order's variants that are not deeper, the student where there is no
    other, which is what `mean_over_depths` says of the order's ladder. An order is a path through the lattice of
    subsets, and the best a shortest one (arXiv 2607.08170). What the way to a subset has cost and the cheapest variant
    on it are both kept: a way is given up only for one that is no worse in either.

    Args:
        cost: of every variant, such as its KL divergence to the teacher in nats.
        blocks: of M positions.
    """
    positions = blocks.student_layers
    lengths = [len(block) for block in blocks.blocks]
    everything = (1 << positions) - 1
    ways: list[list[_Way]] = [[] for _ in range(everything + 1)]
    ways[0].append(_Way(0.0, cost[Variant.student(positions)], ()))
    depth = [blocks.student_layers] * (everything + 1)
    for mask in range(everything):
        for position in (position for position in range(positions) if not mask >> position & 1):
            more = mask | 1 << position
            depth[more] = depth[mask] + lengths[position] - 1
            # The student's own depth is not one of those between.
            passed = lengths[position] - 1 - (depth[mask] == positions and lengths[position] > 1)
            # A variant as small as the student does not take its place.
            reached = cost[_variant(more, positions)] if depth[more] > positions else ways[0][0].cheapest
            for way in ways[mask]:
                total = way.total + passed * way.cheapest
                _keep(ways[more], _Way(total, min(way.cheapest, reached), (*way.order, position + 1)))
    return min(ways[everything], key=lambda way: way.total).order


class _Way(NamedTuple):
    total: float
    cheapest: float
    order: tuple[int, ...]


def _keep(ways: list[_Way], new: _Way) -> None:
    if any(way.total <= new.total and way.cheapest <= new.cheapest for way in ways):
        return
    ways[:] = [way for way in ways if way.total < new.total or way.cheapest < new.cheapest]
    ways.append(new)


def _variant(mask: int, positions: int) -> Variant:
    return Variant(tuple(bool(mask >> position & 1) for position in range(positions)))
