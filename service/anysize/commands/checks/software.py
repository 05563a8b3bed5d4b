"""Python and the packages that everything stands on, against the ranges that this release names."""

import sys
from importlib import metadata

from packaging.requirements import Requirement

from anysize.commands.checks.check import Check

_LOOKED_AT = ("torch", "transformers", "safetensors", "huggingface-hub")
_OLDEST = (3, 11)


def software_checks() -> list[Check]:
    """Versions that are installed."""
    return [_python(), *_packages(metadata.requires("anysize") or [])]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST:
        return Check(name="Python", outcome="fail", found=found, advice="install Python 3.11 or newer")
    return Check(name="Python", outcome="ok", found=found)


def _packages(requires: list[str]) -> list[Check]:
    named = {one.name: one for one in map(Requirement, requires) if one.marker is None}
    return [_package(named[name]) for name in _LOOKED_AT if name in named]


def _package(wanted: Requirement) -> Check:
    advice = f"pip install '{wanted}', or what deploy/constraints.txt pins"
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Check(name=wanted.name, outcome="fail", found="not installed", advice=advice)
    if not wanted.specifier.contains(version, prereleases=True):
        return Check(
            name=wanted.name, outcome="fail", found=f"{version}, which is outside {wanted.specifier}", advice=advice
        )
    return Check(name=wanted.name, outcome="ok", found=version)
