"""A variant: one size of a family, as data. Never a module.

For each position 1..M it says whether the student's layer stands there or the teacher's block. Ids are made to be
read and typed: `student`, `teacher`, and `p8-11` or `p1.4-6.9` for the patched positions in between.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from anysize.errors import VariantError
from anysize.family.blocks import BlockMap

_MAX_ID_LENGTH = 1024
_RUN = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", re.ASCII)


class Owner(StrEnum):
    """Which of the two trained models a layer, an embedding or a head belongs to."""

    STUDENT = "student"
    TEACHER = "teacher"


class LayerRef(NamedTuple):
    """One layer of a variant's stack: its owner and its number among the owner's layers."""

    owner: Owner
    layer: int


@dataclass(frozen=True, slots=True)
class Variant:
    """One size: for each position whether it is patched with its teacher block (paper, 2.3).

    Attributes:
        choice: M booleans, True where the teacher's block stands.
    """

    choice: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.choice:
            raise VariantError("a variant has at least one position")

    @classmethod
    def student(cls, positions: int) -> "Variant":
        """The variant in which nothing is patched."""
        return cls((False,) * positions)

    @classmethod
    def teacher(cls, positions: int) -> "Variant":
        """The variant in which every position is patched."""
        return cls((True,) * positions)

    @classmethod
    def of(cls, positions: int, patched: Iterable[int]) -> "Variant":
        """The variant with `positions` positions of which those in `patched` (counted from 1) are patched."""
        chosen = set(patched)
        outside = sorted(position for position in chosen if not 1 <= position <= positions)
        if outside:
            raise VariantError(f"position {outside[0]} does not exist: this family has positions 1 to {positions}")
        return cls(tuple(position in chosen for position in range(1, positions + 1)))

    @classmethod
    def parse(cls, text: str, positions: int) -> "Variant":
        """Read an id: `student`, `teacher`, or `p` and runs of positions joined by dots, such as `p1.4-6`.

        Raises:
            VariantError: the text is no id, or names positions that this family does not have.
        """
        if text == Owner.STUDENT:
            return cls.student(positions)
        if text == Owner.TEACHER:
            return cls.teacher(positions)
        if len(text) > _MAX_ID_LENGTH or not text.startswith("p"):
            raise VariantError(_not_an_id(text))
        patched: set[int] = set()
        for part in text[1:].split("."):
            run = _RUN.fullmatch(part)
            if run is None:
                raise VariantError(_not_an_id(text))
            start, stop = int(run[1]), int(run[2] or run[1])
            if not 1 <= start <= stop <= positions:
                raise VariantError(
                    f"variant {text!r}: {part} is no run of positions; this family has positions 1 to {positions}"
                )
            patched.update(range(start, stop + 1))
        return cls.of(positions, patched)

    @property
    def id(self) -> str:
        """The canonical id; `Variant.parse(variant.id, M) == variant`."""
        if not any(self.choice):
            return Owner.STUDENT.value
        if all(self.choice):
            return Owner.TEACHER.value
        runs: list[str] = []
        for is_patched, group in groupby(enumerate(self.choice, start=1), key=lambda item: item[1]):
            if is_patched:
                members = [position for position, _ in group]
                runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
        return "p" + ".".join(runs)

    @property
    def patched(self) -> tuple[int, ...]:
        """The patched positions, counted from 1, in order."""
        return tuple(position for position, is_patched in enumerate(self.choice, start=1) if is_patched)

    @property
    def embedding_owner(self) -> Owner:
        """Who contributes the embedding: the owner of the first layer (paper, 2.3)."""
        return Owner.TEACHER if self.choice[0] else Owner.STUDENT

    @property
    def head_owner(self) -> Owner:
        """Who contributes the final norm and the LM head: the owner of the last layer (paper, 2.3)."""
        return Owner.TEACHER if self.choice[-1] else Owner.STUDENT

    def stack(self, blocks: BlockMap) -> tuple[LayerRef, ...]:
        """The variant's layers from first to last."""
        if len(self.choice) != blocks.student_layers:
            raise VariantError(
                f"variant {self.id!r} has {len(self.choice)} positions, the family {blocks.student_layers}"
            )
        layers: list[LayerRef] = []
        for position, (is_patched, block) in enumerate(zip(self.choice, blocks.blocks, strict=True)):
            if is_patched:
                layers.extend(LayerRef(Owner.TEACHER, layer) for layer in block)
            else:
                layers.append(LayerRef(Owner.STUDENT, position))
        return tuple(layers)

    def depth(self, blocks: BlockMap) -> int:
        """The number of layers: M for the student, N for the teacher."""
        return len(self.stack(blocks))


def _not_an_id(text: str) -> str:
    shown = text if len(text) <= 60 else text[:60] + "..."
    return f"{shown!r} is no variant id; ids look like 'student', 'p8-11', 'p1.4-6' or 'teacher'"
