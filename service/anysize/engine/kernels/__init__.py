"""Compiled kernels for steps of few tokens on a CPU."""
