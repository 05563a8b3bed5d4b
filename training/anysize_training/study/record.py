"""A file of measurements, kept as they are made, so that a run can be taken up again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anysize.errors import SettingsError
from anysize.family.family import Family
from anysize.family.files import write_whole

Measured = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        measure: what was measured.
        conditions: all that the result follows from besides the variant.
        variant: of which.
        result: what came out.
    """

    measure: str
    conditions: dict[str, Any]
    variant: str
    result: Measured


class Record:
    """What was measured of the sizes of one family, and how.

    A measurement is known by the measure, by the conditions (text, windows, limits) and by the variant; one that is in
    the file is not made again, and one under other conditions stands beside it.

    Args:
        family: its name.
        fingerprint: of its weights.
        path: the file; without one nothing is kept.

    Raises:
        SettingsError: the file is damaged, or of another family.
    """

    def __init__(self, family: str, fingerprint: Mapping[str, str], path: Path | None = None) -> None:
        self._head = {"family": family, "fingerprint": dict(fingerprint)}
        self._path = path
        self._rows: list[Row] = []
        self._report: Measured | None = None
        if path is None:
            return
        if not path.absolute().parent.is_dir():
            raise SettingsError(f"--out {path}: its folder does not exist")
        if path.exists():
            self._rows, self._report = self._read(path)

    def measured(
        self, measure: str, conditions: Mapping[str, Any], variant: str, make: Callable[[], Measured]
    ) -> Measured:
        """One measurement, made now unless it is known.

        Args:
            measure: what is measured.
            conditions: all that the result follows from besides the variant; as JSON holds it.
            variant: of which.
            make: makes it, as JSON holds it.
        """
        wanted = (measure, dict(conditions), variant)
        for row in self._rows:
            if (row.measure, row.conditions, row.variant) == wanted:
                return row.result
        result = make()
        self._rows.append(Row(*wanted, result))
        self._write()
        return result

    def conclude(self, report: Measured) -> None:
        """Keep what a command printed of it all, in place of what an earlier one did."""
        self._report = report
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        everything = {**self._head, "report": self._report, "measurements": [asdict(row) for row in self._rows]}
        try:
            write_whole(self._path, json.dumps(everything, indent=1) + "\n")
        except OSError as error:
            raise SettingsError(f"cannot write {self._path}: {error.strerror}") from error

    def _read(self, path: Path) -> tuple[list[Row], Measured | None]:
        try:
            found = json.loads(path.read_bytes())
            fingerprint, report = found["fingerprint"], found["report"]
            rows = [Row(**row) for row in found["measurements"]]
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise SettingsError(f"{path} is no record of measurements ({error}); name another --out") from error
        if fingerprint != self._head["fingerprint"]:
            raise SettingsError(
                f"{path} holds measurements of other weights than {self._head['family']} has; name another --out"
            )
        return rows, report


def family_fingerprint(family: Family) -> dict[str, str]:
    """What the numbers of a family follow from: the weights of its folder, and its block map."""
    assert family.manifest is not None
    return {
        "teacher": family.manifest.teacher.fingerprint,
        "student": family.manifest.files["student.safetensors"].sha256,
        "kept": ",".join(map(str, family.bank.blocks.kept)),
    }
