"""Which rows go through which layer, in what order: one step over variants of any mix, planned without tensors.

The rows of a step are packed. At each position those that use the student's layer come first, so that both groups are
slices. Rows are sorted by how many positions are patched: where every variant holds the patched positions of the ones
before it, as on a ladder, this order stays right from the first position to the last; elsewhere rows move between.
Rows that are taken up at a later position, as everything below is known, stand behind all others until then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from anysize.family.blocks import BlockMap
from anysize.family.variant import LayerRef, Owner, Variant


@dataclass(frozen=True, slots=True)
class Visit:
    """One call of one layer.

    Attributes:
        layer: which. Where the base product is shared, the teacher's layer that the student's updates stand on.
        tokens: the packed tokens that go through it.
        students: how many of these, from the first, are to be treated as the student's.
        rows: numbers of the rows that they belong to, in packed order.
        places: the place that this layer has in the stack of each of these rows.
    """

    layer: LayerRef
    tokens: slice
    students: int
    rows: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """The visits of one position.

    Attributes:
        order: packed tokens by where they were before this position; None where all stay.
        rows: numbers of the rows that take part, in packed order.
        visits: in order. No layer is named twice in a whole plan.
    """

    order: tuple[int, ...] | None
    rows: tuple[int, ...]
    visits: tuple[Visit, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """One step.

    Attributes:
        tokens: how many each row brings, by its number.
        rows: numbers of the rows in packed order, before the first position.
        positions: 1 to M.
        last: for each row by its number, where its last token is after the last position.
    """

    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    positions: tuple[Position, ...]
    last: tuple[int, ...]


def plan_step(blocks: BlockMap, rows: Sequence[tuple[Variant, int, int]], *, shares_base: bool) -> Plan:
    """Plan one step.

    Args:
        blocks: of the family.
        rows: of each its variant, its number of tokens, and the position, counted from 0, at which it is taken up.
        shares_base: whether student layers are updates on the first layer of their block (`delta`), so that one call
            serves both groups.
    """
    return _Planner(blocks, rows, shares_base).plan()


class _Planner:
    def __init__(self, blocks: BlockMap, rows: Sequence[tuple[Variant, int, int]], shares_base: bool) -> None:
        self._blocks = blocks
        self._choices = [variant.choice for variant, _, _ in rows]
        self._tokens = [tokens for _, tokens, _ in rows]
        self._entries = [entry for _, _, entry in rows]
        self._shares_base = shares_base
        self._packed = sorted(
            range(len(rows)), key=lambda row: (self._entries[row], sum(self._choices[row]), self._choices[row])
        )
        self._places = [0] * len(rows)

    def plan(self) -> Plan:
        rows = tuple(self._packed)
        positions = tuple(self._position(position) for position in range(self._blocks.student_layers))
        stops = self._stops()
        return Plan(tuple(self._tokens), rows, positions, tuple(stops[row] - 1 for row in range(len(rows))))

    def _position(self, position: int) -> Position:
        order = self._reorder(position)
        present = [row for row in self._packed if self._entries[row] <= position]
        patched = [row for row in present if self._choices[row][position]]
        unpatched = present[: len(present) - len(patched)]
        students = sum(self._tokens[row] for row in unpatched)
        first, *others = self._blocks.blocks[position]
        visits: list[Visit] = []
        for row in self._packed[len(present) :]:
            self._places[row] += 1 + len(others) * self._choices[row][position]
        if self._shares_base:
            if present:
                visits.append(self._visit(Owner.TEACHER, first, present, 0, students))
        else:
            if unpatched:
                visits.append(self._visit(Owner.STUDENT, position, unpatched, 0, students))
            others = [first, *others]
        if patched:
            visits.extend(self._visit(Owner.TEACHER, layer, patched, students, 0) for layer in others)
        return Position(order, tuple(present), tuple(visits))

    def _reorder(self, position: int) -> tuple[int, ...] | None:
        wanted = sorted(self._packed, key=lambda row: self._standing(row, position))
        if wanted == self._packed:
            return None
        stops = self._stops()
        self._packed = wanted
        return tuple(token for row in wanted for token in range(stops[row] - self._tokens[row], stops[row]))

    def _standing(self, row: int, position: int) -> int:
        """What stands first at a position: student rows, then teacher rows, then those not there yet."""
        return 2 if self._entries[row] > position else int(self._choices[row][position])

    def _visit(self, owner: Owner, layer: int, rows: list[int], first_token: int, students: int) -> Visit:
        stop = first_token + sum(self._tokens[row] for row in rows)
        places = tuple(self._places[row] for row in rows)
        for row in rows:
            self._places[row] += 1
        return Visit(LayerRef(owner, layer), slice(first_token, stop), students, tuple(rows), places)

    def _stops(self) -> dict[int, int]:
        return dict(zip(self._packed, accumulate(self._tokens[row] for row in self._packed), strict=True))
