"""How pip on this machine finds its packages, taken along into a build: its settings, and the files that they name."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LINE = re.compile(r"^(?:\S*?\.)?([a-z-]+)='(.*)'$")
_PLACES = ("cert", "client-cert", "constraint", "find-links", "index-url", "extra-index-url", "trusted-host", "proxy")
_OTHERS = ("default-timeout", "timeout", "retries")


@dataclass(frozen=True, slots=True)
class PipSettings:
    """Settings of pip.

    Attributes:
        values: by their names in pip's configuration.
    """

    values: dict[str, str]

    @classmethod
    def of_this_machine(cls) -> "PipSettings":
        """What pip reads here from its files and its environment; what stands later, the environment, wins."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        found = (_LINE.match(line) for line in done.stdout.splitlines())
        named = [(match[1], match[2]) for match in found if match]
        # Environment variables come first in the list.
        return cls({name: value for name, value in reversed(named) if name in (*_PLACES, *_OTHERS)})

    @property
    def text(self) -> str:
        """As a configuration file."""
        return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in self.values.items())

    @property
    def paths(self) -> list[Path]:
        """Files and folders of this machine that they name; a package index is mounted with the files beside it."""
        words = " ".join(self.values.values()).split()
        paths = [Path(word.removeprefix("file://")) for word in words if word.startswith(("/", "file://"))]
        paths = [path.parent if path.name == "simple" else path for path in paths]
        return sorted({path for path in paths if path.exists()})
