"""Sweeps: the same distillation with one thing changed at a time, over seeds."""
