"""One step on its way through the layers, whichever way that is."""

from collections import abc
from dataclasses import dataclass

from torch import Tensor

from anysize.engine.hidden import HiddenStates
from anysize.engine.pages import PagePool
from anysize.engine.plan import Plan
from anysize.engine.sequence import Row
from anysize.family.variant import Variant

Rotation = tuple[Tensor, ...]
# Of each row its variant, its number of tokens, and the position at which it is taken up: all that a plan follows from.
Shape = tuple[tuple[Variant, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What is to go through the layers.

    Attributes:
        rows: in the order in which they were brought.
        plan: of their way.
        hidden_1TD: behind the embeddings, in the plan's first order; may be written to.
        rotation: cosines and sines for the tokens, as layers take them; None where positions are learned.
        pool: where the keys and values of the rows' sequences are.
        states: where hidden states of prompts are kept, and come from where a row is taken up late; None keeps none.
    """

    rows: abc.Sequence[Row]
    plan: Plan
    hidden_1TD: Tensor
    rotation: Rotation | None
    pool: PagePool
    states: HiddenStates | None


def shape_of(rows: abc.Sequence[Row]) -> Shape:
    """The shape of a step of these rows."""
    return tuple((row.sequence.variant, row.tokens, row.entry) for row in rows)
