"""Files that a command may draw into."""

from pathlib import Path

from anysize.errors import SettingsError

_PICTURES = (".png", ".svg")


def check_picture(plot: Path) -> None:
    """Refuse, before any work is done, a file that nothing can be drawn into.

    Raises:
        SettingsError: its ending names no picture, or its folder does not exist.
    """
    if plot.suffix not in _PICTURES:
        raise SettingsError(f"--plot {plot} names no picture that can be written; end it in {' or '.join(_PICTURES)}")
    if not plot.absolute().parent.is_dir():
        raise SettingsError(f"--plot {plot}: its folder does not exist")
