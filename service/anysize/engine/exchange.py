"""Hidden states where sizes part: kept of prompts that run through, brought in where one is taken up."""

from torch import Tensor

from anysize.engine.hidden import HiddenStates
from anysize.engine.sequence import Row


def is_due(position: int, row: Row, states: HiddenStates) -> bool:
    """Whether hidden states of a row come in at a position, or may have to be kept there."""
    lease = row.sequence.lease
    if lease is None or (pages := lease.state_pages.get(position)) is None:
        return False
    return row.entry == position or states.have_room(pages, row.start)


def exchange(position: int, row: Row, here_ND: Tensor, states: HiddenStates) -> None:
    """Bring in a row's hidden states where it is taken up at this position; else keep them where they have room."""
    if not is_due(position, row, states):
        return
    assert row.sequence.lease is not None
    pages = row.sequence.lease.state_pages[position]
    if row.entry == position:
        here_ND.copy_(states.read(pages, row.start, row.start + row.tokens))
    else:
        states.write(pages, row.start, here_ND)
