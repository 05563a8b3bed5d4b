"""Patch orders: one module a way to choose one, and what compares them."""
