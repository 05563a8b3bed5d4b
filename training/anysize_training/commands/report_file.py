"""The file that a command keeps its report in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anysize.console import say
from anysize.errors import SettingsError
from anysize.family.files import write_whole


def check_report_file(out: Path) -> None:
    """Refuse, before any work is done, a file that cannot be written.

    Raises:
        SettingsError: its folder does not exist, or it is a folder.
    """
    if not out.absolute().parent.is_dir():
        raise SettingsError(f"--out {out}: its folder does not exist")
    if out.is_dir():
        raise SettingsError(f"--out {out} is a folder; name a .json file")


def write_report(report: Mapping[str, Any], out: Path) -> None:
    """Write a report as JSON, and say so."""
    write_whole(out, json.dumps(report, indent=2) + "\n")
    say(f"wrote {out}")
