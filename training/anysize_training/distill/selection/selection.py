"""What every method of choosing kept layers returns."""

from dataclasses import dataclass
from typing import Literal

from anysize.errors import SettingsError
from anysize.family.blocks import BlockMap

Method = Literal["kl", "similarity", "block_influence", "every_nth"]


@dataclass(frozen=True, slots=True)
class Selection:
    """Kept layers, and the figure by which the method chose them.

    Attributes:
        blocks: the kept layers.
        score: `kl`: mean KL(teacher || pruned teacher) of a calibration token, in nats; `similarity`: mean over blocks
            of the cosine between first and last output; `block_influence`: summed influence of the dropped layers;
            `every_nth`, which measures nothing: None.
    """

    blocks: BlockMap
    score: float | None

    @property
    def depths(self) -> frozenset[int]:
        """Every depth that patching some of the positions reaches, student and teacher among them."""
        depths = {self.blocks.student_layers}
        for block in self.blocks.blocks:
            depths |= {depth + len(block) - 1 for depth in depths}
        return frozenset(depths)


def check_fits(teacher_layers: int, student_layers: int, longest_block: int) -> None:
    """Refuse numbers of layers that no block map has.

    Raises:
        SettingsError: so many layers cannot be kept, or so few not with blocks of the allowed length.
    """
    if not 1 <= student_layers < teacher_layers:
        raise SettingsError(
            f"a student of a teacher of {teacher_layers} layers keeps 1 to {teacher_layers - 1}, not {student_layers}"
        )
    if student_layers * longest_block < teacher_layers:
        raise SettingsError(
            f"{student_layers} layers with blocks of at most {longest_block} cannot stand for {teacher_layers}; "
            f"allow blocks of {-(-teacher_layers // student_layers)}, or keep more layers"
        )
