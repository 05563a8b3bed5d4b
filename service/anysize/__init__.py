"""Anysize: every size of a language model from one set of weights."""

from importlib.metadata import version

__version__ = version("anysize")
__all__ = ["__version__"]
