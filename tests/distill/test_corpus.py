"""Documents in, tokenised text on disk out, and rows of it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import SPECIAL, byte_tokenizer

from anysize.errors import ArtifactError, SettingsError
from anysize_training.distill import corpus as corpus_module
from anysize_training.distill.batches import Sequences
from anysize_training.distill.corpus import Corpus, load_corpus
from anysize_training.distill.recipe import Data

TEXTS = [f"document number {number} says hello" + " and more" * (number % 5) for number in range(40)]


def jsonl(folder: Path, texts: Sequence[object]) -> Path:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"title": "t", "text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def load(folder: Path, texts: Sequence[object] = TEXTS, *, rows: int = 1000, seed: int = 3, **fields) -> Corpus:
    values = {"sequence_length": 16, "cache": str(folder / "cache")} | fields
    data = Data(source=str(jsonl(folder, texts)), **values)
    return load_corpus(data, byte_tokenizer(), rows=rows, seed=seed, private=folder / "private")


def stream(sequences: Sequences) -> list[int]:
    """All ids of packed rows, put back together."""
    batch = sequences.rows(torch.arange(len(sequences)))
    return torch.cat([batch.inputs_BL, batch.targets_BL[:, -1:]], dim=1).flatten().tolist()


@pytest.mark.parametrize("packing", ["documents", "stream"])
def test_packed_rows_are_the_documents_joined_by_separators(packing: str, tmp_path: Path) -> None:
    corpus = load(tmp_path, packing=packing, separator=SPECIAL[0])
    pieces = str(byte_tokenizer().decode(stream(corpus.training))).split(SPECIAL[0])[:-1]
    assert set(pieces) <= set(TEXTS)
    assert len(pieces) == len(set(pieces)) >= 38
    assert pieces != TEXTS[: len(pieces)]


def test_a_packed_row_knows_its_documents(tmp_path: Path) -> None:
    separator = SPECIAL[0]
    corpus = load(tmp_path, packing="documents", separator=separator)
    batch = corpus.training.rows(torch.arange(len(corpus.training)))
    mark = byte_tokenizer().get_vocab()[separator]
    assert batch.positions_BL is not None
    for inputs, positions, counted in zip(batch.inputs_BL, batch.positions_BL, batch.is_counted_BL, strict=True):
        expected = 0
        for token, position, is_counted in zip(inputs.tolist(), positions.tolist(), counted.tolist(), strict=True):
            assert position == expected
            assert is_counted == (token != mark)
            expected = 0 if token == mark else expected + 1


def test_a_document_of_its_own_row_is_cut_or_padded(tmp_path: Path) -> None:
    texts = ["abc", "abcdefghijklmnopqrstuvwxyz"]
    corpus = load(tmp_path, texts, packing="one_per_row", separator=SPECIAL[0])
    batch = corpus.training.rows(torch.arange(2))
    assert batch.positions_BL is None
    counted = sorted(batch.is_counted_BL.sum(dim=1).tolist())
    short = len(byte_tokenizer()("abc", add_special_tokens=False).input_ids)
    assert counted == [short, 16]
    for inputs, is_counted in zip(batch.inputs_BL, batch.is_counted_BL, strict=True):
        length = int(is_counted.sum())
        assert is_counted[:length].all()
        assert not inputs[length + 1 :].any()


def test_targets_are_inputs_moved_by_one_and_steps_wrap_around(tmp_path: Path) -> None:
    corpus = load(tmp_path, ["abcdefghij" * 10], rows=5)
    rows = corpus.training
    batch = rows.rows(rows.row_numbers(0, 5))
    assert torch.equal(batch.inputs_BL[:, 1:], batch.targets_BL[:, :-1])
    assert rows.row_numbers(2, 3).tolist() == [number % len(rows) for number in (6, 7, 8)]


def test_held_out_documents_are_never_trained_on(tmp_path: Path) -> None:
    corpus = load(tmp_path, held_out=3, separator=SPECIAL[0])
    assert corpus.held_out is not None
    assert len(corpus.held_out) >= 3
    held, trained = (
        str(byte_tokenizer().decode(stream(part))).split(SPECIAL[0])[:-1] for part in (corpus.held_out, corpus.training)
    )
    assert held
    assert trained
    assert not set(held) & set(trained)


def test_tokenised_text_is_made_once_for_runs_that_want_the_same(tmp_path: Path, monkeypatch) -> None:
    first = load(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "read_documents", lambda _data: pytest.fail("tokenised again"))
        again = load(tmp_path)
    assert first.sha256 == again.sha256
    load(tmp_path, packing="stream")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    changes: list[dict[str, Any]] = [
        {"seed": 4},
        {"held_out": 2},
        {"separator": SPECIAL[1]},
        {"first_row": 2},
        {"rows": 30},
        {"sequence_length": 17},
        {"packing": "one_per_row"},
    ]
    for number, fields in enumerate(changes, start=2):
        load(tmp_path, **fields)
        assert len(list((tmp_path / "cache").iterdir())) == number
    assert load(tmp_path, [*TEXTS, "one more"]).sha256 != first.sha256


def test_text_without_a_fixed_revision_stays_with_its_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(corpus_module, "read_documents", lambda _data: iter(TEXTS))
    data = Data(source="some/dataset", sequence_length=16, cache=str(tmp_path / "cache"))
    load_corpus(data, byte_tokenizer(), rows=5, seed=0, private=tmp_path / "private")
    load_corpus(
        data.model_copy(update={"first_row": 3}), byte_tokenizer(), rows=5, seed=0, private=tmp_path / "private"
    )
    assert len(list((tmp_path / "private").glob("*/tokens.int32"))) == 2
    assert not (tmp_path / "cache").exists()
    pinned = data.model_copy(update={"revision": "0123456789" * 4})
    load_corpus(pinned, byte_tokenizer(), rows=5, seed=0, private=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_damaged_text_is_named(tmp_path: Path) -> None:
    load(tmp_path)
    tokens = next((tmp_path / "cache").glob("*/tokens.int32"))
    os.truncate(tokens, 8)
    with pytest.raises(ArtifactError, match=r"is no tokenised text.*remove it"):
        load(tmp_path)


@pytest.mark.parametrize(("texts", "message"), [(["short"], "less than one row"), ([""], "holds no text")])
def test_too_little_text_is_an_error(texts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, texts, sequence_length=64)


def test_an_unknown_separator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no token"):
        load(tmp_path, separator="<|nothing|>")
