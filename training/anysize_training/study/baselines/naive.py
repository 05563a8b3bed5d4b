"""Naive layer pruning (paper, 3.1): the second layer goes first, then every other one."""


def naive_removals(layers: int) -> tuple[int, ...]:
    """The order in which layers go, counted from 0.

    The paper removes the second layer, then every other up to the (N - 2)th, and so keeps the first and the last two.
    How to go on it does not say; here the same rule starts again on the layers that are left, until it finds none.

    Args:
        layers: N, of the teacher.
    """
    removed: list[int] = []
    left = list(range(layers))
    while going := left[1:-2:2]:
        removed += going
        left = [layer for layer in left if layer not in going]
    return tuple(removed)
