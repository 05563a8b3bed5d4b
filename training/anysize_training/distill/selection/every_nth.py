"""The paper's rule, every n-th layer, for a given number of kept layers."""

from anysize.family.blocks import BlockMap
from anysize_training.distill.selection.selection import Selection, check_fits


def select_every_nth(teacher_layers: int, student_layers: int) -> Selection:
    """Keep the first layer, every n-th, and the last two, as the paper does for Qwen and Pythia.

    Where no n leaves exactly M layers so, the last one is kept instead of the last two; then three, four and so on.

    Raises:
        SettingsError: M is not between 1 and N - 1.
    """
    check_fits(teacher_layers, student_layers, teacher_layers)
    for last in (2, 1, 0, *range(3, student_layers)):
        for n in range(2, teacher_layers + 1):
            if 1 + last <= student_layers:
                blocks = BlockMap.every_nth(teacher_layers, n=n, first=1, last=last)
                if blocks.student_layers == student_layers:
                    return Selection(blocks, None)
    raise AssertionError("with last = M - 1 and n = N every M is met")
