"""The ways to choose a patch order, by name. Imports nothing, for the command line's sake."""

from typing import Literal

Method = Literal["kl_greedy", "exact", "cosine_low_first", "cosine_high_first", "last_to_first", "first_to_last"]
