"""The block map: which contiguous teacher layers each student layer stands for (paper, 2.1).

Knows nothing of weights. Layers are numbered from 0, as transformers and checkpoints do; positions in the
student are numbered from 1, as the paper and the variant ids do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from anysize.errors import BlockMapError


@dataclass(frozen=True, slots=True)
class BlockMap:
    """A partition of the teacher's layers into M contiguous blocks.

    Attributes:
        kept: the teacher layers that start a block, and from which the student's layers were initialised
            (the paper's l_1 ... l_M, counted from 0).
        teacher_layers: N, the number of teacher layers.

    Raises:
        BlockMapError: `kept` is empty, does not start at layer 0, is not strictly increasing, or leaves the teacher.
    """

    kept: tuple[int, ...]
    teacher_layers: int

    def __post_init__(self) -> None:
        if not self.kept:
            raise BlockMapError("a student keeps at least one teacher layer, but no kept layer is named")
        if self.kept[0] != 0:
            raise BlockMapError(f"the first teacher layer is always kept, but the kept layers start at {self.kept[0]}")
        for before, after in pairwise(self.kept):
            if after <= before:
                raise BlockMapError(f"kept layers must strictly increase, but {after} follows {before}")
        if self.kept[-1] >= self.teacher_layers:
            raise BlockMapError(
                f"kept layer {self.kept[-1]} does not exist: the teacher has layers 0 to {self.teacher_layers - 1}"
            )

    @classmethod
    def every_nth(cls, teacher_layers: int, *, n: int = 2, first: int = 1, last: int = 2) -> "BlockMap":
        """Keep the first `first` and last `last` layers and every n-th between them (paper, Equations 2 and 3).

        The paper's Qwen and Pythia students are `n=2, first=1, last=2`, its Llama students `n=2, first=2, last=1`.
        """
        if min(n, first) < 1 or last < 0 or first + last > teacher_layers:
            raise BlockMapError(f"every_nth(n={n}, first={first}, last={last}) does not fit {teacher_layers} layers")
        between = range(first - 1 + n, teacher_layers - last, n)
        return cls((*range(first), *between, *range(teacher_layers - last, teacher_layers)), teacher_layers)

    @property
    def student_layers(self) -> int:
        """M, the number of positions."""
        return len(self.kept)

    @property
    def blocks(self) -> tuple[range, ...]:
        """The M blocks in order, each a range of teacher layers."""
        return tuple(range(start, stop) for start, stop in pairwise((*self.kept, self.teacher_layers)))

    @property
    def longest(self) -> int:
        """The number of layers in the longest block."""
        return max(len(block) for block in self.blocks)

    def dropped(self) -> Sequence[int]:
        """The teacher layers that no student layer was initialised from."""
        kept = set(self.kept)
        return [layer for layer in range(self.teacher_layers) if layer not in kept]
