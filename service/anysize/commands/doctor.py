"""`anysize doctor`: what is wrong with a machine or a family, and what to do about it."""

from rich.table import Table

from anysize.commands.checks.check import Check
from anysize.commands.checks.family import examine_family
from anysize.commands.checks.machine import machine_checks
from anysize.commands.checks.software import software_checks
from anysize.console import print_json, terminal
from anysize.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def examine(settings: Settings) -> list[Check]:
    """Look at everything that a service with these settings needs."""
    family = examine_family(settings)
    return [*software_checks(), *family.checks, *machine_checks(settings, family.weight_bytes)]


def show_checks(checks: list[Check], *, as_json: bool) -> bool:
    """Print what was found; returns whether a service would run."""
    is_fine = all(check.outcome != "fail" for check in checks)
    if as_json:
        print_json({"ok": is_fine, "checks": [check.model_dump() for check in checks]})
        return is_fine
    table = Table("", "what")
    for title in ("found", "what to do"):
        table.add_column(title, overflow="fold")
    for check in checks:
        table.add_row(
            f"[{_COLOURS[check.outcome]}]{check.outcome}[/]", check.name, _plain(check.found), _plain(check.advice)
        )
    terminal.print(table)
    return is_fine


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
