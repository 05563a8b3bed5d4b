"""A text that a command names."""

from dataclasses import dataclass
from pathlib import Path

from anysize.family.pretrained import Tokenizer
from anysize_training.study.texts import Windows, read_windows


@dataclass(frozen=True, slots=True)
class Text:
    """A text to calibrate on or to score.

    Attributes:
        path: the file.
        first_row: of a `.jsonl` file, the first that is read.
        max_tokens: read at most this many.
        window: tokens in one window.
        wikitext: undo WikiText's word tokenisation first.
    """

    path: Path
    first_row: int
    max_tokens: int
    window: int
    wikitext: bool = False

    def windows(self, tokenizer: Tokenizer) -> Windows:
        """Cut for scoring."""
        return read_windows(
            self.path,
            tokenizer,
            length=self.window,
            max_tokens=self.max_tokens,
            detokenise="wikitext" if self.wikitext else "none",
            first_row=self.first_row,
        )
