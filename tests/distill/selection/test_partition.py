"""The dynamic program, against every block map there is."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from layer_measures import block_maps

from anysize.errors import SettingsError
from anysize_training.distill.selection.partition import best_partition
from anysize_training.distill.selection.selection import Selection


@given(st.data())
def test_no_block_map_is_worth_more(data: st.DataObject) -> None:
    layers = data.draw(st.integers(2, 9))
    kept, longest = data.draw(st.integers(1, layers - 1)), data.draw(st.integers(1, layers))
    assume(kept * longest >= layers)
    row = st.lists(st.floats(-1, 1), min_size=layers, max_size=layers)
    worth = torch.tensor(data.draw(st.lists(row, min_size=layers, max_size=layers)), dtype=torch.float64)

    def total(blocks) -> float:
        return sum(worth[block[0], block[-1]].item() for block in blocks.blocks)

    rivals = block_maps(layers, kept, longest)
    best = best_partition(worth, kept, longest_block=longest)
    assert best in rivals
    assert total(best) == pytest.approx(max(map(total, rivals)), abs=1e-12)


@pytest.mark.parametrize(
    ("kept", "longest", "reason"), [(2, 2, "blocks of 3"), (6, 6, "keeps 1 to 5"), (0, 6, "not 0")]
)
def test_numbers_that_no_block_map_has_are_refused(kept: int, longest: int, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        best_partition(torch.zeros(6, 6), kept, longest_block=longest)


@given(st.data())
def test_depths_are_those_of_every_subset_of_patched_positions(data: st.DataObject) -> None:
    blocks = data.draw(st.sampled_from(block_maps(8, data.draw(st.integers(1, 7)), 8)))
    every = set()
    for subset in range(2**blocks.student_layers):
        every.add(sum(len(block) if subset >> place & 1 else 1 for place, block in enumerate(blocks.blocks)))
    assert Selection(blocks, None).depths == every
