"""Training text: the documents of a file or a Hugging Face dataset, in an order that depends on the seed alone."""

import json
from collections.abc import Iterator
from itertools import islice
from random import Random

from anysize.errors import SettingsError
from anysize_training.distill.recipe import Data

_SHUFFLE_BUFFER = 100_000


def shuffled(documents: Iterator[str], seed: int) -> Iterator[str]:
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
    path = data.file
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
            rows = datasets.load_dataset(
                name, data.subset, data_files=files, split=data.split, revision=data.revision, streaming=True
            )
        except (OSError, ValueError) as error:
            raise SettingsError(f"{data.source} is neither a file nor a dataset that can be loaded: {error}") from error
        for row in rows:
            yield row.get(data.text_field)
