"""Measuring what a family is worth."""
