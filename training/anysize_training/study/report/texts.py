"""The two texts that a report measures on: those that are named, or those of the built-in family's own numbers."""

from dataclasses import dataclass
from pathlib import Path

from anysize.errors import SettingsError

# Where they come from, training/README.md says. The rows in front of the first were trained on.
_CALIBRATION, _FIRST_ROW = Path("wikipedia_vital_en.jsonl"), 7500
_EVALUATION = Path("wikitext2_test.txt")


@dataclass(frozen=True, slots=True)
class Texts:
    """A text to calibrate on, and one to score on.

    Attributes:
        calibration: a file.
        first_row: of it, where it is a `.jsonl` file.
        evaluation: a file.
        wikitext: whether that is WikiText, word-tokenised.
    """

    calibration: Path
    first_row: int
    evaluation: Path
    wikitext: bool

    @classmethod
    def named(cls, calibration: Path | None, first_row: int | None, evaluation: Path | None, wikitext: bool) -> "Texts":
        """Those that a command line names; one that it does not is looked for in the current folder.

        Raises:
            SettingsError: it is not there.
        """
        missing = [
            f"{option} FILE is not given, and {usual} is not in this folder"
            for option, given, usual in (
                ("--text", calibration, _CALIBRATION),
                ("--evaluate-text", evaluation, _EVALUATION),
            )
            if given is None and not usual.is_file()
        ]
        if missing:
            raise SettingsError(
                f"a report calibrates on one text and scores on another: {'; '.join(missing)}. training/README.md says "
                "where these two come from; any .txt or .jsonl file will do"
            )
        return cls(
            calibration=calibration or _CALIBRATION,
            first_row=first_row if first_row is not None else 0 if calibration else _FIRST_ROW,
            evaluation=evaluation or _EVALUATION,
            wikitext=wikitext or evaluation is None,
        )
