"""The best way to cut a teacher into contiguous blocks, by dynamic programming."""

import math

from torch import Tensor

from anysize.family.blocks import BlockMap
from anysize_training.distill.selection.selection import check_fits


def best_partition(worth_NN: Tensor, student_layers: int, *, longest_block: int) -> BlockMap:
    """The block map whose blocks are worth most in sum; exact, in N x M x `longest_block` steps.

    Args:
        worth_NN: `[i, j]` is what a block of teacher layers i to j is worth, j included; other entries are not read.
        student_layers: M, the number of blocks.
        longest_block: the most layers of one block.

    Raises:
        SettingsError: no block map has these numbers.
    """
    layers = len(worth_NN)
    check_fits(layers, student_layers, longest_block)
    worth = worth_NN.tolist()
    # best[stop]: the most that layers before `stop` are worth in as many blocks as rounds were made.
    best = [0.0] + [-math.inf] * layers
    starts: list[list[int]] = []
    for _ in range(student_layers):
        round_best, round_starts = [-math.inf] * (layers + 1), [0] * (layers + 1)
        for stop in range(1, layers + 1):
            for start in range(max(0, stop - longest_block), stop):
                total = best[start] + worth[start][stop - 1]
                if total > round_best[stop]:
                    round_best[stop], round_starts[stop] = total, start
        best = round_best
        starts.append(round_starts)
    kept, stop = [], layers
    for round_starts in reversed(starts):
        stop = round_starts[stop]
        kept.append(stop)
    return BlockMap(tuple(reversed(kept)), layers)
