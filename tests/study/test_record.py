"""A record of measurements is gone on from, and never mixed with that of other weights."""

from pathlib import Path

import pytest

from anysize.errors import SettingsError
from anysize_training.study.record import Measured, Record


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Measured:
        self.calls += 1
        return {"value": self.calls}


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path, make = tmp_path / "report.json", Counter()
    first = Record("a", {"teacher": "1"}, path).measured("perplexity", {"text": "x"}, "student", make)
    again = Record("a", {"teacher": "1"}, path)
    assert again.measured("perplexity", {"text": "x"}, "student", make) == first == {"value": 1}
    # Any other condition, size or measure is another measurement, and leaves the first where it is.
    assert again.measured("perplexity", {"text": "y"}, "student", make) == {"value": 2}
    assert again.measured("perplexity", {"text": "x"}, "teacher", make) == {"value": 3}
    assert again.measured("words", {"text": "x"}, "student", make) == {"value": 4}
    again.conclude({"sizes": []})
    assert Record("a", {"teacher": "1"}, path).measured("perplexity", {"text": "x"}, "student", make) == first
    assert make.calls == 4


def test_a_run_that_breaks_off_keeps_what_it_had(tmp_path: Path) -> None:
    path, make = tmp_path / "report.json", Counter()

    def breaks() -> Measured:
        raise KeyboardInterrupt

    record = Record("a", {}, path)
    record.measured("words", {}, "student", make)
    with pytest.raises(KeyboardInterrupt):
        record.measured("words", {}, "teacher", breaks)
    assert Record("a", {}, path).measured("words", {}, "student", make) == {"value": 1}


def test_other_weights_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    Record("a", {"teacher": "1"}, path).conclude({})
    with pytest.raises(SettingsError, match="other weights"):
        Record("a", {"teacher": "2"}, path)
    for damaged in ("{", "[]", '{"fingerprint": {}}', '{"fingerprint": {}, "report": {}, "measurements": [{"a": 1}]}'):
        path.write_text(damaged)
        with pytest.raises(SettingsError, match="no record"):
            Record("a", {}, path)
    with pytest.raises(SettingsError, match="folder does not exist"):
        Record("a", {}, tmp_path / "no" / "report.json")
