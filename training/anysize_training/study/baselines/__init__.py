"""Pruning and merging without training: what a family is compared with (paper, 3.1, 3.5 and Appendix N)."""
