"""A calibration: what was measured on one machine, as a file that is used there and nowhere else."""

import hashlib
import platform
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anysize.engine.kernels.build import source_sha256
from anysize.engine.workload import StepRow
from anysize.errors import CalibrationError
from anysize.family.family import Family, builtin_folder
from anysize.family.fetch import cache_folder
from anysize.family.files import sha256_of, write_whole
from anysize.family.manifest import MANIFEST
from anysize.family.pair import Pair
from anysize.settings import Settings
from anysize.sizing.calibrate import Measured
from anysize.sizing.latency import FEATURES, LatencyModel, Shape
from anysize.sizing.margin import Margin

_MAX_BYTES = 16 << 20
_QUANTILE = 0.95
_CPUINFO = Path("/proc/cpuinfo")

_Count = Annotated[int, Field(ge=0, le=1 << 40)]
_Ms = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
_Factor = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Key(_Part):
    """Everything that step times depend on; a calibration is stale once any of it has changed.

    Attributes:
        family_sha256: of the family's `family.json`, which names the sha256 of all weights; of a named teacher and
            student, of their configs.
        device: name of the GPU, or `cpu`.
        processor: as the system names it.
        dtype: of the weights.
        threads: of torch.
        kernels: the sha256 of what compiled kernels are made of, where they are used.
        quantize: what weights are rounded to, if anything.
        torch: its version.
    """

    family_sha256: str
    device: str
    processor: str
    dtype: str
    threads: int
    kernels: str | None
    quantize: str | None
    torch: str

    @classmethod
    def of(cls, settings: Settings, *, compiled: bool) -> Self:
        """That of this machine and these settings; to be asked once torch has its threads."""
        device = settings.torch_device()
        return cls(
            family_sha256=_family_sha256(settings),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            processor=_processor(),
            dtype=settings.dtype,
            threads=torch.get_num_threads(),
            kernels=source_sha256() if compiled else None,
            quantize=settings.quantize,
            torch=torch.__version__,
        )

    @property
    def path(self) -> Path:
        """Where the calibration of this key is kept."""
        name = hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
        return cache_folder() / "calibrations" / f"{name}.json"


class RowOut(_Part):
    """One row of a measured step; see `StepRow`."""

    variant: str = Field(max_length=1024)
    tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    stored: _Count
    wants_logits: bool


class StepOut(_Part):
    """One measured step."""

    rows: list[RowOut] = Field(min_length=1, max_length=4096)
    measured_ms: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
    predicted_ms: _Ms


class Calibration(_Part):
    """The file.

    Attributes:
        schema_version: 1.
        key: what it holds for.
        blocks, shares_base, shares_head: see `Shape`.
        coefficients: milliseconds by the names in `FEATURES`.
        step_margin, lasting_margin: see `Margin`.
        steps: all that was measured, with what the coefficients make of it.
    """

    schema_version: Literal[1]
    key: Key
    blocks: list[Annotated[int, Field(ge=1, le=1 << 16)]] = Field(min_length=1, max_length=1 << 12)
    shares_base: bool
    shares_head: bool
    coefficients: dict[str, _Ms]
    step_margin: _Factor
    lasting_margin: _Factor
    steps: list[StepOut] = Field(min_length=1, max_length=100_000)

    @classmethod
    def fit(cls, key: Key, shape: Shape, measured: list[Measured]) -> Self:
        """From what was measured."""
        model = LatencyModel.fit(shape, [one.rows for one in measured], [one.ms for one in measured])
        predicted_ms = [model.step_ms(one.rows) for one in measured]
        pairs = [*zip(measured, predicted_ms, strict=True)]
        lasting = float(np.quantile([one.ms / ms for one, ms in pairs], _QUANTILE))
        step = float(np.quantile([each_ms / ms for one, ms in pairs for each_ms in one.times_ms], _QUANTILE))
        return cls(
            schema_version=1,
            key=key,
            blocks=list(shape.blocks),
            shares_base=shape.shares_base,
            shares_head=shape.shares_head,
            coefficients=dict(zip(FEATURES, model.coefficients, strict=True)),
            step_margin=max(step, lasting),
            lasting_margin=lasting,
            steps=[
                StepOut(rows=[_row_out(row) for row in one.rows], measured_ms=one.ms, predicted_ms=ms)
                for one, ms in pairs
            ],
        )

    def model(self) -> LatencyModel:
        """What predicts steps."""
        shape = Shape(tuple(self.blocks), self.shares_base, self.shares_head)
        return LatencyModel.of(shape, self.coefficients)

    def margin(self) -> Margin:
        """What predictions are to be taken times."""
        return Margin(self.step_margin, self.lasting_margin)

    def relative_errors(self) -> list[float]:
        """Of the steps it was fitted to: predicted over measured, less 1."""
        return [step.predicted_ms / step.measured_ms - 1 for step in self.steps]

    def write(self) -> Path:
        """Keep it where `read_calibration` looks for it; whole, or not at all."""
        path = self.key.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.model_dump_json())
        return path


def read_calibration(key: Key, family: Family) -> Calibration | None:
    """The calibration that holds for a key; None where there is none.

    Raises:
        CalibrationError: the file is damaged, or is one of something else. It names the file and what to do.
    """
    path = key.path
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise CalibrationError(_unusable(path, "it is far too large"))
        found = Calibration.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CalibrationError(_unusable(path, f"{where}: {first['msg']}")) from error
    except OSError as error:
        raise CalibrationError(_unusable(path, str(error.strerror))) from error
    if found.key != key:
        raise CalibrationError(_unusable(path, "it was made for something else"))
    if set(found.coefficients) != set(FEATURES):
        raise CalibrationError(_unusable(path, "its coefficients are not those that this version knows"))
    if found.blocks != [len(block) for block in family.bank.blocks.blocks]:
        raise CalibrationError(_unusable(path, "its blocks are not those of the family"))
    return found


def required_calibration(key: Key, family: Family) -> Calibration:
    """Like `read_calibration`, where there must be one.

    Raises:
        CalibrationError: there is none, or it cannot be used.
    """
    found = read_calibration(key, family)
    if found is None:
        raise CalibrationError(
            "nothing is stored for this machine, this family and these settings; run `anysize calibrate`"
        )
    return found


def _row_out(row: StepRow) -> RowOut:
    return RowOut(variant=row.variant.id, tokens=row.tokens, stored=row.stored, wants_logits=row.wants_logits)


def _family_sha256(settings: Settings) -> str:
    if settings.pair is not None:
        return Pair.kept(*settings.pair).shape_sha256()
    return sha256_of((settings.family or builtin_folder()) / MANIFEST)


def _unusable(path: Path, why: str) -> str:
    return f"the calibration in {path} cannot be used: {why}; run `anysize calibrate` to measure again"


def _processor() -> str:
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
