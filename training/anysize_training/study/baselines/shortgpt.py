"""ShortGPT (Men et al. 2024; paper, Appendix N): the layers with the least Block Influence go.

Block Influence is 1 - E cos(input, output) of a layer over all tokens, on the residual stream before the final norm.
Neither paper says whether the teacher is ranked once or measured again without what was removed, so both are here. Any
layer may go, the first too, unlike in a student, whose block map starts with it.
"""

from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from anysize.family.architectures import Architecture
from anysize_training.distill.selection.block_influence import block_influence
from anysize_training.stack import build, plain_stack
from anysize_training.trail import Trail


def influence_removals(
    architecture: Architecture, teacher: PreTrainedModel, inputs_NL: Tensor, *, count: int, rescored: bool
) -> tuple[int, ...]:
    """The first `count` layers that go, in order; of equal ones the first goes.

    Args:
        architecture: where the teacher's parts are.
        teacher: not changed.
        inputs_NL: token ids of N calibration windows.
        count: less than the teacher has.
        rescored: measure what is left again after each removal, instead of ranking the whole teacher once.
    """
    left = list(range(len(architecture.layers_of(teacher))))
    trail = Trail(architecture, inputs_NL)
    if not rescored:
        influence = block_influence(trail, teacher).tolist()
        return tuple(sorted(left, key=influence.__getitem__)[:count])
    removed: list[int] = []
    for _ in tqdm(range(count), desc="ShortGPT, measuring again", unit="layer", leave=False):
        influence = block_influence(trail, build(teacher, architecture, plain_stack(left))).tolist()
        removed.append(left.pop(influence.index(min(influence))))
    return tuple(removed)
