"""Text for calibration and evaluation: read, detokenised, cut into windows."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import SettingsError
from anysize_training.distill.data import read_documents
from anysize_training.distill.recipe import Data

Detokenise = Literal["none", "wikitext"]

_WIKITEXT_RULES = (
    (re.compile(r"\bs '"), "s'"),
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([:;,.!?])(?= )"), r"\1"),
    (re.compile(r" ([:;,.!?])$", re.MULTILINE), r"\1"),
    (re.compile(r"([(\[{])\s*([^)\]}]*?)\s*([)\]}])"), r"\1\2\3"),
    (re.compile(r'"\s*([^"]*?)\s*"'), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*' "), r"'\1' "),
    (re.compile(r"= = = ="), "===="),
    (re.compile(r"= = ="), "==="),
    (re.compile(r"= ="), "=="),
    (re.compile(r" \n"), "\n"),
    (re.compile(r"\n "), "\n"),
    (re.compile(r" N "), " 1 "),
    (re.compile(r" 's"), "'s"),
)


@dataclass(frozen=True, slots=True)
class Windows:
    """Text cut for scoring.

    Attributes:
        name: of the text, for tables.
        sha256: of the file.
        tokens_NL: N windows of `length + 1` tokens; each token but the first of a window is scored.
    """

    name: str
    sha256: str
    tokens_NL: Tensor

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return self.tokens_NL.shape[0] * (self.tokens_NL.shape[1] - 1)

    @property
    def tokens_sha256(self) -> str:
        """Of the token ids and of how they are cut."""
        return hashlib.sha256(f"{tuple(self.tokens_NL.shape)} {self.tokens_NL.flatten().tolist()}".encode()).hexdigest()


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


def read_windows(
    path: Path,
    tokenizer: Tokenizer,
    *,
    length: int,
    max_tokens: int,
    detokenise: Detokenise = "none",
    first_row: int = 0,
) -> Windows:
    """Read a `.txt` or `.jsonl` file and cut it into windows that overlap by one token.

    Args:
        path: the file; of JSON lines the field `text` is read.
        tokenizer: the family's.
        length: tokens that are scored in one window.
        max_tokens: stop after this many.
        detokenise: undo the word tokenisation of WikiText before the text is tokenised.
        first_row: of JSON lines, the first that is read.

    Raises:
        SettingsError: the file cannot be read or is shorter than one window.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    if path.suffix == ".jsonl":
        text = "\n\n".join(read_documents(Data(source=str(path), first_row=first_row)))
    else:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is no UTF-8 text: {error}") from error
    if detokenise == "wikitext":
        text = detokenise_wikitext(text)
    # No token is longer than a few dozen characters, so this much text is enough.
    ids = tokenizer(text[: 40 * max_tokens], add_special_tokens=False).input_ids[: max_tokens + 1]
    count = (len(ids) - 1) // length
    if count < 1:
        raise SettingsError(f"{path} holds {len(ids)} tokens, less than one window of {length}")
    tokens = torch.tensor(ids)
    windows = torch.stack([tokens[start * length : (start + 1) * length + 1] for start in range(count)])
    return Windows(path.name, hashlib.sha256(raw).hexdigest(), windows)


def detokenise_wikitext(text: str) -> str:
    """Undo WikiText's word tokenisation, much as lm-evaluation-harness does.

    Four lines in a hundred come out otherwise, by a blank: `anysize_training.study.pages` has the harness's own rules.
    """
    for pattern, replacement in _WIKITEXT_RULES:
        text = pattern.sub(replacement, text)
    return text
