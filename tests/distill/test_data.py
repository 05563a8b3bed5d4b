"""Training text in, packed sequences out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fakes import SPECIAL, byte_tokenizer

from anysize.errors import SettingsError
from anysize_training.distill.data import load_sequences, read_documents
from anysize_training.distill.recipe import Data


def jsonl(folder: Path, texts: Sequence[object]) -> Path:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"title": "t", "text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def test_sequences_are_the_documents_joined_by_separators(tmp_path: Path) -> None:
    texts = [f"document number {number} says hello" for number in range(40)]
    data = Data(source=str(jsonl(tmp_path, texts)), sequence_length=16, separator=SPECIAL[0])
    tokenizer = byte_tokenizer()
    sequences = load_sequences(data, tokenizer, limit=1000, seed=3)
    stream = sequences.tokens_NL.flatten().tolist()
    joined = str(tokenizer.decode(stream))
    pieces = joined.split(SPECIAL[0])[:-1]
    assert set(pieces) <= set(texts)
    assert len(pieces) == len(set(pieces)) >= 35
    assert pieces != texts[: len(pieces)]


def test_the_seed_alone_decides_the_order(tmp_path: Path) -> None:
    data = Data(source=str(jsonl(tmp_path, [f"text {n} " * 5 for n in range(30)])), sequence_length=16)
    first, again, other = (load_sequences(data, byte_tokenizer(), limit=20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.tokens_NL, again.tokens_NL)
    assert not torch.equal(first.tokens_NL, other.tokens_NL)


def test_targets_are_inputs_moved_by_one_and_batches_wrap_around(tmp_path: Path) -> None:
    data = Data(source=str(jsonl(tmp_path, ["abcdefghij" * 10])), sequence_length=16)
    sequences = load_sequences(data, byte_tokenizer(), limit=5, seed=0)
    inputs, targets = sequences.batch(0, 5)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    wrapped, _ = sequences.batch(2, 3)
    assert torch.equal(wrapped[0], inputs[1])
    assert inputs.shape == targets.shape == (5, 16)


def test_rows_are_sliced_and_text_files_split_at_blank_lines(tmp_path: Path) -> None:
    rows = jsonl(tmp_path, ["a", "b", "c", "d"])
    assert list(read_documents(Data(source=str(rows), first_row=1, rows=2))) == ["b", "c"]
    plain = tmp_path / "text.txt"
    plain.write_text("one\nline\n\ntwo\n\n\nthree")
    assert [text.strip() for text in read_documents(Data(source=str(plain)))] == ["one\nline", "two", "three"]


def test_parquet_files_are_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "text.parquet"
    datasets.Dataset.from_dict({"text": ["alpha", "beta", "gamma"]}).to_parquet(str(path))
    assert list(read_documents(Data(source=str(path), rows=2))) == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": 5}\n', "row 0: no text in field 'text'"),
        ("[1]\n", "row 0: no text in field 'text'"),
        ('{"text": "fine"}\n{"te', "row 1: no JSON"),
        ('{"text": "short"}\n', "less than one sequence"),
    ],
)
def test_bad_text_is_named_with_its_row(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        load_sequences(Data(source=str(path), sequence_length=64), byte_tokenizer(), limit=5, seed=0)


def test_a_missing_file_and_an_unknown_separator_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--set data\.source=FILE"):
        list(read_documents(Data(source=str(tmp_path / "none.jsonl"))))
    data = Data(source=str(jsonl(tmp_path, ["x"])), separator="<|nothing|>")
    with pytest.raises(SettingsError, match="is no token"):
        load_sequences(data, byte_tokenizer(), limit=1, seed=0)


def test_a_source_longer_than_the_shuffle_buffer_is_read_once_and_whole(tmp_path: Path, monkeypatch) -> None:
    texts = [f"{number:04d}" for number in range(200)]
    whole = Data(source=str(jsonl(tmp_path, texts)), sequence_length=8)
    monkeypatch.setattr("anysize_training.distill.data._SHUFFLE_BUFFER", 16)
    sequences = load_sequences(whole, byte_tokenizer(), limit=1000, seed=1)
    decoded = str(byte_tokenizer().decode(sequences.tokens_NL.flatten().tolist())).split(SPECIAL[2])[:-1]
    assert sorted(decoded) == sorted(set(decoded))
    assert set(decoded) <= set(texts)
    assert len(decoded) >= 195
    assert decoded != sorted(decoded)
