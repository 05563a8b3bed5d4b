"""One call for every method, and all of them side by side."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize_training.distill.selection.block_influence import block_influence, select_by_influence
from anysize_training.distill.selection.every_nth import select_every_nth
from anysize_training.distill.selection.kl import KLSelection
from anysize_training.distill.selection.pruned import PrunedTeacher
from anysize_training.distill.selection.selection import Method, Selection, check_fits
from anysize_training.distill.selection.similarity import pairwise_similarity, select_by_similarity
from anysize_training.trail import Trail


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method chose, and what that is worth on text that it did not see.

    Attributes:
        method: its name.
        selection: what it chose.
        kl: mean KL(teacher || pruned teacher) of a held-out token, in nats: a student that starts as kept layers.
        merged_kl: the same of a student that starts with each block merged into its first layer (LaCo, Equation 4).
        seconds: time the method took.
    """

    method: Method
    selection: Selection
    kl: float
    merged_kl: float
    seconds: float


def choose(
    method: Method,
    architecture: Architecture,
    teacher: PreTrainedModel,
    inputs_NL: Tensor,
    *,
    student_layers: int,
    longest_block: int,
) -> Selection:
    """Choose kept layers. The same arguments always give the same layers.

    Args:
        method: by what; `every_nth` measures nothing and knows no longest block.
        architecture: where the teacher's parts are.
        teacher: not changed.
        inputs_NL: token ids of N calibration windows; moved to the teacher's device.
        student_layers: M.
        longest_block: the most layers that one student layer may stand for.

    Raises:
        SettingsError: no block map has these numbers.
    """
    inputs_NL = inputs_NL.to(teacher.device)
    layers = len(architecture.layers_of(teacher))
    match method:
        case "every_nth":
            return select_every_nth(layers, student_layers)
        case "kl":
            search = KLSelection(architecture, teacher, inputs_NL, longest_block=longest_block)
            return search.best(student_layers)
        case "similarity":
            check_fits(layers, student_layers, longest_block)
            similarity_NN = pairwise_similarity(architecture, teacher, inputs_NL)
            return select_by_similarity(similarity_NN, student_layers, longest_block=longest_block)
        case "block_influence":
            check_fits(layers, student_layers, longest_block)
            influence_N = block_influence(Trail(architecture, inputs_NL), teacher)
            return select_by_influence(influence_N, student_layers, longest_block=longest_block)


def compare(
    methods: Sequence[Method],
    architecture: Architecture,
    teacher: PreTrainedModel,
    calibration_NL: Tensor,
    held_out_NL: Tensor,
    *,
    student_layers: int,
    longest_block: int,
) -> Iterator[Outcome]:
    """Choose by several methods on one text, and score each choice on another.

    Args:
        methods: in the order of the outcomes.
        architecture: where the teacher's parts are.
        teacher: not changed.
        calibration_NL: token ids that the methods see.
        held_out_NL: token ids that they do not see.
        student_layers: M.
        longest_block: the most layers that one student layer may stand for.

    Raises:
        SettingsError: no block map has these numbers.
    """
    check_fits(len(architecture.layers_of(teacher)), student_layers, longest_block)
    held_out = PrunedTeacher(architecture, teacher, held_out_NL.to(teacher.device))
    for method in methods:
        begun_s = time.perf_counter()
        selection = choose(
            method,
            architecture,
            teacher,
            calibration_NL,
            student_layers=student_layers,
            longest_block=longest_block,
        )
        seconds = time.perf_counter() - begun_s
        blocks = selection.blocks
        yield Outcome(method, selection, held_out.kl(blocks.kept), held_out.merged_kl(blocks), seconds)
