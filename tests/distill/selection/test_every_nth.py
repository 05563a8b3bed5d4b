"""Every n-th layer for a given number of kept layers."""

import pytest

from anysize.errors import SettingsError
from anysize.family.blocks import BlockMap
from anysize_training.distill.selection.every_nth import select_every_nth


@pytest.mark.parametrize(("teacher_layers", "kept"), [(36, 19), (40, 21), (32, 17), (30, 16)])
def test_half_of_the_layers_are_those_of_the_paper(teacher_layers: int, kept: int) -> None:
    """Qwen3-4B and 8B, Qwen3-14B, Pythia-2.8B and 6.9B, SmolLM2-135M: Equation 2."""
    paper = (*range(0, teacher_layers - 1, 2), teacher_layers - 1)
    assert select_every_nth(teacher_layers, kept).blocks == BlockMap(paper, teacher_layers)


def test_where_no_n_fits_with_the_last_two_other_ends_are_kept() -> None:
    assert select_every_nth(30, 11).blocks.kept == (0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 29)
    assert select_every_nth(30, 10).blocks.kept == (0, 3, 6, 9, 12, 15, 18, 21, 24, 27)


def test_every_number_of_layers_is_met() -> None:
    for teacher_layers in range(2, 41):
        for kept in range(1, teacher_layers):
            assert select_every_nth(teacher_layers, kept).blocks.student_layers == kept


@pytest.mark.parametrize("kept", [0, 6, 7])
def test_as_many_layers_as_the_teacher_has_are_refused(kept: int) -> None:
    with pytest.raises(SettingsError, match="keeps 1 to 5"):
        select_every_nth(6, kept)
