"""Tokenised text on disk: written once, mapped into memory by every run that wants the same tokens."""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import ArtifactError, SettingsError
from anysize.family.fetch import cache_folder
from anysize.family.files import new_folder, sha256_of
from anysize.family.pretrained import read_json
from anysize_training.distill.batches import Sequences
from anysize_training.distill.data import read_documents, shuffled
from anysize_training.distill.recipe import Data

_TOKENS, _STARTS, _SUMMARY = "tokens.int32", "starts.int64", "summary.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Summary:
    """What a folder of tokenised text holds.

    Attributes:
        tokens: of all documents.
        documents: how many there are.
        held_out_documents: how many of the first are not for training.
        sha256: of the token ids.
        held_out_tokens: tokens of the held-out documents.
    """

    tokens: int
    documents: int
    held_out_documents: int
    held_out_tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The text of a run.

    Attributes:
        training: rows to train on.
        held_out: rows of other documents, or None where the recipe holds none out.
        sha256: of all token ids, in order.
        source_sha256: of the file that they were made of, where it was one.
    """

    training: Sequences
    held_out: Sequences | None
    sha256: str
    source_sha256: str | None = None


def load_corpus(data: Data, tokenizer: Tokenizer, *, rows: int, seed: int, private: Path) -> Corpus:
    """Tokenise the text of a recipe, or take what an earlier run has tokenised.

    Documents are shuffled by the seed; the first go to the held-out rows, the rest to training, a separator behind
    each. Reading stops when there are enough.

    Args:
        data: where the text is, and how it fills rows.
        tokenizer: the teacher's.
        rows: training rows that the run can use.
        seed: of the order of documents.
        private: folder for text that cannot be shared: that of a dataset at no fixed revision, and all text where the
            cache cannot be written.

    Raises:
        SettingsError: the source cannot be read, or holds too little text for one row.
        ArtifactError: the tokenised text is damaged.
    """
    separator = _separator_id(data, tokenizer)
    source_sha256 = sha256_of(data.file) if data.file.is_file() else None
    identity = _identity(data, source_sha256)
    key = {
        "source": identity,
        "slice": [data.subset, data.split, data.text_field, data.first_row, data.rows],
        "rows": [rows, data.held_out, data.sequence_length, data.packing == "one_per_row"],
        "tokenizer": _tokenizer_sha256(tokenizer),
        "separator": separator,
        "seed": seed,
    }
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    shared = Path(data.cache) if data.cache else cache_folder() / "tokens"
    folder = (private if identity is None or not _is_writable(shared) else shared) / name
    if not (folder / _SUMMARY).exists():
        _write(folder, data, tokenizer, separator, rows=rows, seed=seed)
    return _open(folder, data, source_sha256)


def _write(folder: Path, data: Data, tokenizer: Tokenizer, separator: int, *, rows: int, seed: int) -> None:
    documents = _tokenised(shuffled(read_documents(data), seed), tokenizer)
    with new_folder(folder, replace=True) as building:
        writer = _Writer(building, data, separator)
        try:
            writer.take(documents, data.held_out, "tokenising held-out text")
            held_out_documents, held_out_tokens = writer.documents, writer.tokens
            writer.take(documents, rows, "tokenising")
        finally:
            writer.close()
        summary = Summary(writer.tokens, writer.documents, held_out_documents, held_out_tokens, writer.sha256)
        (building / _SUMMARY).write_text(json.dumps(asdict(summary), indent=2) + "\n", encoding="utf-8")


def _open(folder: Path, data: Data, source_sha256: str | None) -> Corpus:
    try:
        summary = Summary(**read_json(folder / _SUMMARY))
        if summary.tokens == 0:
            raise SettingsError(f"{data.source} holds no text")
        tokens_T = torch.from_file(str(folder / _TOKENS), shared=False, size=summary.tokens, dtype=torch.int32)
        starts_S = torch.from_file(str(folder / _STARTS), shared=False, size=summary.documents, dtype=torch.int64)
    except (TypeError, RuntimeError, OSError) as error:
        raise ArtifactError(folder, f"is no tokenised text: {error}; remove it to have it made again") from error
    border, place = summary.held_out_documents, summary.held_out_tokens
    parts = [
        Sequences(tokens, starts, length=data.sequence_length, packing=data.packing)
        for tokens, starts in (
            (tokens_T[:place], starts_S[:border]),
            (tokens_T[place:], starts_S[border:] - place),
        )
    ]
    held_out, training = parts
    if len(training) == 0 or (data.held_out and len(held_out) == 0):
        raise SettingsError(
            f"{data.source} holds {summary.tokens} tokens, less than one row of {data.sequence_length + 1}"
            + (f" beside {data.held_out} held-out rows" if data.held_out else "")
        )
    return Corpus(training, held_out if data.held_out else None, summary.sha256, source_sha256)


class _Writer:
    """Appends documents to the files of a folder, and never holds more than one of them."""

    def __init__(self, folder: Path, data: Data, separator: int) -> None:
        self._files = [(folder / name).open("wb") for name in (_TOKENS, _STARTS)]
        self._width = data.sequence_length + 1
        self._one_per_row = data.packing == "one_per_row"
        self._separator = separator
        self._digest = hashlib.sha256()
        self.tokens = self.documents = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def take(self, documents: Iterator[list[int]], rows: int, what: str) -> None:
        tokens, first = self.tokens, self.documents
        with tqdm(total=rows, desc=what, unit="row", leave=False, disable=rows == 0) as progress:
            while progress.n < rows and (ids := next(documents, None)) is not None:
                self._append(ids)
                done = self.documents - first if self._one_per_row else (self.tokens - tokens) // self._width
                progress.update(min(done, rows) - progress.n)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _append(self, ids: list[int]) -> None:
        ids = [*ids, self._separator]
        if self._one_per_row:
            ids = ids[: self._width]
        raw = array("i", ids).tobytes()
        self._digest.update(raw)
        self._files[0].write(raw)
        self._files[1].write(array("q", [self.tokens]).tobytes())
        self.tokens += len(ids)
        self.documents += 1


def _tokenised(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Token ids of the documents that have any."""
    remaining = iter(documents)
    while some := list(islice(remaining, _TOGETHER)):
        for ids in tokenizer(some, add_special_tokens=False).input_ids:
            if ids:
                yield ids


def _identity(data: Data, source_sha256: str | None) -> str | None:
    """What tells one text from another, where anything does."""
    pinned = data.revision and _COMMIT.fullmatch(data.revision)
    return source_sha256 or (f"{data.source}@{data.revision}" if pinned else None)


def _is_writable(folder: Path) -> bool:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return os.access(existing, os.W_OK)


def _tokenizer_sha256(tokenizer: Tokenizer) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _separator_id(data: Data, tokenizer: Tokenizer) -> int:
    token = data.separator or tokenizer.eos_token
    if not isinstance(token, str):
        raise SettingsError("the tokenizer has no end of sequence; name a token in data.separator")
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise SettingsError(f"data.separator {token!r} is no token of the teacher's tokenizer")
    return found
