"""Contenders that run in processes, and where need be in environments, of their own."""
