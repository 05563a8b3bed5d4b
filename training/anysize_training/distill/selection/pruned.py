"""The teacher with layers left out, scored against the whole one."""

from collections.abc import Iterable

from torch import Tensor
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize.family.blocks import BlockMap
from anysize_training.replay import Replay, mean_kl
from anysize_training.stack import build, merged_blocks


class PrunedTeacher:
    """Scores sets of kept layers of one teacher on a small text, all of which is run at once.

    Args:
        architecture: where the teacher's parts are.
        teacher: not changed.
        inputs_NL: token ids of the text.

    Attributes:
        layers: N, of the whole teacher.
        embedded_NLD: what the first layer is given.
    """

    def __init__(self, architecture: Architecture, teacher: PreTrainedModel, inputs_NL: Tensor) -> None:
        self._architecture, self._teacher, self._inputs_NL = architecture, teacher, inputs_NL
        self.layers = len(architecture.layers_of(teacher))
        self._replay = Replay(architecture, teacher, inputs_NL)
        self.embedded_NLD = self._replay.embedded_NLD
        self._teacher_NLV = self._replay.log_probabilities(self.run(self.embedded_NLD, range(self.layers)))

    def run(self, hidden_NLD: Tensor, layers: Iterable[int]) -> Tensor:
        """Hidden states behind some layers, one after the other."""
        return self._replay.run(hidden_NLD, layers)

    def kl(self, kept: Iterable[int]) -> float:
        """Mean KL(teacher || pruned teacher) of a token, in nats."""
        return self.kl_behind(self.embedded_NLD, kept)

    def merged_kl(self, blocks: BlockMap) -> float:
        """The same, of the teacher with each block merged into its first layer (LaCo, Equation 4)."""
        model = build(self._teacher, self._architecture, merged_blocks(blocks))
        replay = Replay(self._architecture, model, self._inputs_NL)
        last_NLD = replay.run(replay.embedded_NLD, range(blocks.student_layers))
        return mean_kl(self._teacher_NLV, replay.log_probabilities(last_NLD))

    def kl_behind(self, hidden_NLD: Tensor, rest: Iterable[int]) -> float:
        """The same, from the hidden states behind the kept layers before `rest`."""
        return mean_kl(self._teacher_NLV, self._replay.log_probabilities(self.run(hidden_NLD, rest)))
