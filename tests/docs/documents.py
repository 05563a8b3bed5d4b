"""The fenced blocks of the project's pages, and the commands in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("*/README.md")])
    if path.name != "CHANGELOG.md"
)
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"`([^`|]+)`")


def fenced(page: str, *languages: str) -> list[str]:
    """The blocks of these languages."""
    return [text for language, text in _FENCE.findall((ROOT / page).read_text()) if language in languages]


def fenced_commands(page: str) -> list[str]:
    """Commands for a shell, each on one line."""
    lines = [line.strip() for text in fenced(page, "sh", "bash") for line in text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def commands(page: str) -> list[str]:
    """Fenced commands, and those in the cells of tables."""
    rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("|")]
    return [*fenced_commands(page), *(cell for row in rows for cell in _CELL.findall(row))]


def words_of(command: str) -> list[str]:
    """The words of the first program in a line."""
    return shlex.split(command.split(" # ")[0].split(" | ")[0].split(" > ")[0].split(" && ")[0])
