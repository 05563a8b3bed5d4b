"""Whole documents to score, cut and counted as lm-evaluation-harness's `wikitext` task does it.

A document of WikiText is a page: from one title to the next. Its words are counted before its word tokenisation is
undone, by splitting at white space; a page that begins or ends with white space counts an empty word there.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anysize.errors import SettingsError
from anysize_training.distill.data import read_documents
from anysize_training.distill.recipe import Data

# In this order. Some join what belongs apart ("the ships ' endurance"): results are comparable only with all of them.
_PLAIN = (
    ("s '", "s'"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
)
_PAIRED = tuple(
    (re.compile(rf"{before}\s*([^{after}]*?)\s*{after}"), rf"{opening}\1{closing}")
    for before, after, opening, closing in (
        (r"\(", r"\)", "(", ")"),
        (r"\[", r"\]", "[", "]"),
        ("{", "}", "{", "}"),
        ('"', '"', '"', '"'),
        ("'", "'", "'", "'"),
    )
)
_LAST = (
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


@dataclass(frozen=True, slots=True)
class Page:
    """One document.

    Attributes:
        text: what a model is scored on.
        words: in the document as it was found.
        utf8_bytes: likewise.
    """

    text: str
    words: int
    utf8_bytes: int

    @classmethod
    def of(cls, original: str, text: str) -> "Page":
        """A page whose words and bytes are those of the original."""
        return cls(text, len(re.split(r"\s+", original)), len(original.encode()))


@dataclass(frozen=True, slots=True)
class Pages:
    """The documents of a file.

    Attributes:
        name: of the file, for tables.
        sha256: of the documents that were chosen, and of how they were read.
        pages: at least one.
    """

    name: str
    sha256: str
    pages: tuple[Page, ...]

    @property
    def words(self) -> int:
        """In all documents."""
        return sum(page.words for page in self.pages)


def read_pages(path: Path, *, wikitext: bool = False, first_row: int = 0, limit: int | None = None) -> Pages:
    """Read the documents of a file: rows of `.jsonl`, pages of WikiText, or all of a `.txt` as one.

    Args:
        path: the file; of JSON lines the field `text` is read.
        wikitext: it is WikiText: word-tokenised, many pages in one file.
        first_row: of JSON lines, the first that is read.
        limit: keep only this many documents, the first.

    Raises:
        SettingsError: the file cannot be read, or holds no text.
    """
    if path.suffix == ".jsonl":
        originals = list(read_documents(Data(source=str(path), first_row=first_row)))
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is no UTF-8 text: {error}") from error
        originals = [*wikitext_pages(text)] if wikitext else [text]
    originals = [one for one in originals if one.strip()][:limit]
    if not originals:
        raise SettingsError(f"{path} holds no text to score")
    pages = tuple(Page.of(one, detokenised_page(one) if wikitext else one) for one in originals)
    return Pages(path.name, hashlib.sha256(repr(pages).encode()).hexdigest(), pages)


def wikitext_pages(text: str) -> Iterator[str]:
    """The pages of a WikiText file, each from its title (` = Title = `) on."""
    lines: list[str] = []
    for line in text.split("\n"):
        # Section titles have more signs (` = = Life = = `), which stand together after this.
        joined = line.replace("= = =", "===").replace("= =", "==").strip()
        if lines and joined.startswith("= ") and joined.endswith(" ="):
            yield "\n".join(lines)
            lines = []
        lines.append(line)
    yield "\n".join(lines)


def detokenised_page(text: str) -> str:
    """Undo WikiText's word tokenisation, exactly as the task `wikitext` of lm-evaluation-harness does."""
    for old, new in _PLAIN:
        text = text.replace(old, new)
    for pattern, replacement in _PAIRED:
        text = pattern.sub(replacement, text)
    for old, new in _LAST:
        text = text.replace(old, new)
    return text
