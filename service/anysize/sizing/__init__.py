"""From a budget to a variant."""
