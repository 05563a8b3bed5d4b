"""Training text in, documents out."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from anysize.errors import SettingsError
from anysize_training.distill.data import read_documents, shuffled
from anysize_training.distill.recipe import Data


def jsonl(folder: Path, texts: Sequence[object]) -> Path:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"title": "t", "text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


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
    ],
)
def test_bad_text_is_named_with_its_row(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(SettingsError, match=message):
        list(read_documents(Data(source=str(path))))


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--set data\.source=FILE"):
        list(read_documents(Data(source=str(tmp_path / "none.jsonl"))))


def test_a_source_longer_than_the_shuffle_buffer_is_read_once_and_whole(tmp_path: Path, monkeypatch) -> None:
    texts = [f"{number:04d}" for number in range(200)]
    whole = Data(source=str(jsonl(tmp_path, texts)), sequence_length=8)
    monkeypatch.setattr("anysize_training.distill.data._SHUFFLE_BUFFER", 16)
    order = list(shuffled(read_documents(whole), 1))
    assert sorted(order) == texts
    assert order != texts


def test_the_seed_alone_decides_the_order(tmp_path: Path) -> None:
    data = Data(source=str(jsonl(tmp_path, [f"text {n}" for n in range(30)])))
    first, again, other = (list(shuffled(read_documents(data), seed)) for seed in (1, 1, 2))
    assert first == again
    assert sorted(first) == sorted(other)
    assert first != other


def test_a_text_that_ships_with_the_recipes_is_found_by_name() -> None:
    documents = list(read_documents(Data(source="recipe:tiny.txt")))
    assert len(documents) > 5
    with pytest.raises(SettingsError, match=r"cannot read recipe:none\.txt"):
        list(read_documents(Data(source="recipe:none.txt")))
