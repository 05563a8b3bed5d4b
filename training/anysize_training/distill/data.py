"""Training text: rows of documents in, packed token sequences out, in an order that depends on the seed alone."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase as Tokenizer

from anysize.errors import SettingsError
from anysize_training.distill.recipe import Data

_SHUFFLE_BUFFER = 100_000


@dataclass(frozen=True, slots=True)
class Sequences:
    """Packed training sequences.

    Attributes:
        tokens_NL: N sequences of `sequence_length + 1` token ids; the last token is only ever a target.
        documents: how many documents went in.
    """

    tokens_NL: Tensor
    documents: int

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each `[size, sequence_length]`, of one optimizer step counted from 0.

        Batches follow each other in order and start again at the end, so a step is all that a resumed run must know.
        """
        rows = torch.arange(step * size, (step + 1) * size) % len(self.tokens_NL)
        chosen = self.tokens_NL[rows].long()
        return chosen[:, :-1], chosen[:, 1:]


def load_sequences(data: Data, tokenizer: Tokenizer, *, limit: int, seed: int) -> Sequences:
    """Tokenise and pack documents until there are enough sequences.

    Documents are shuffled by the seed, joined with a separator behind each, and cut into sequences.

    Args:
        data: where the text is.
        tokenizer: the teacher's.
        limit: the number of sequences after which reading stops.
        seed: of the order of documents.

    Raises:
        SettingsError: the source cannot be read, or holds too little text for one sequence.
    """
    separator = _separator_id(data, tokenizer)
    width = data.sequence_length + 1
    ids = array("i")
    used = 0
    with tqdm(total=limit, desc="packing sequences", unit="seq", leave=False) as progress:
        for document in _shuffled(read_documents(data), seed):
            ids.extend(tokenizer(document, add_special_tokens=False).input_ids)
            ids.append(separator)
            used += 1
            progress.update(min(len(ids) // width, limit) - progress.n)
            if len(ids) >= limit * width:
                break
    count = min(len(ids) // width, limit)
    if count == 0:
        raise SettingsError(f"{data.source} holds {len(ids)} tokens, less than one sequence of {width}")
    return Sequences(torch.frombuffer(ids, dtype=torch.int32)[: count * width].view(count, width), used)


def _shuffled(documents: Iterator[str], seed: int) -> Iterator[str]:
    """Documents in an order of the seed's; a source too long to hold is shuffled through a buffer."""
    random = Random(seed)  # noqa: S311  (an order, not a secret)
    buffer = list(islice(documents, _SHUFFLE_BUFFER))
    random.shuffle(buffer)
    for document in documents:
        place = random.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = document
    yield from buffer


def read_documents(data: Data) -> Iterator[str]:
    """The texts of the chosen rows, in the order of the source."""
    stop = None if data.rows is None else data.first_row + data.rows
    try:
        for number, text in enumerate(islice(_rows(data), data.first_row, stop), start=data.first_row):
            if not isinstance(text, str):
                raise SettingsError(f"{data.source}, row {number}: no text in field {data.text_field!r}")
            if text:
                yield text
    except UnicodeDecodeError as error:
        raise SettingsError(f"{data.source} is no UTF-8 text: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(
            f"cannot read {data.source}: {reason}; name the text with --set data.source=FILE"
        ) from error


def _rows(data: Data) -> Iterator[object]:
    path = Path(data.source)
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise SettingsError(f"{path}, row {number}: no JSON: {error}") from error
                yield row.get(data.text_field) if isinstance(row, dict) else None
    elif path.suffix == ".txt":
        yield from path.read_text(encoding="utf-8").split("\n\n")
    else:
        import datasets

        name, files = ("parquet", str(path)) if path.suffix == ".parquet" else (data.source, None)
        try:
            rows = datasets.load_dataset(name, data.subset, data_files=files, split=data.split, streaming=True)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{data.source} is neither a file nor a dataset that can be loaded: {error}") from error
        for row in rows:
            yield row.get(data.text_field)


def _separator_id(data: Data, tokenizer: Tokenizer) -> int:
    token = data.separator or tokenizer.eos_token
    if not isinstance(token, str):
        raise SettingsError("the tokenizer has no end of sequence; name a token in data.separator")
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise SettingsError(f"data.separator {token!r} is no token of the teacher's tokenizer")
    return found
