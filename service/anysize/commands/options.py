"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from anysize.settings import DType

FamilyOption = Annotated[Path | None, typer.Option("--family", help="Family folder; the built-in one by default.")]
TeacherOption = Annotated[
    str | None, typer.Option("--teacher", help="Instead of a family: a checkpoint folder, or a name on the hub.")
]
StudentOption = Annotated[
    str | None, typer.Option("--student", help="Its student, with student_config.json: a folder or a name on the hub.")
]
PatchOrderOption = Annotated[
    Literal["last_to_first", "first_to_last"] | None, typer.Option(help="Of a teacher and a student.")
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU where there is one.")]
DTypeOption = Annotated[DType | None, typer.Option(help="Type of the weights in memory.")]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Kernels compiled for this machine, by default where a compiler is there."
    ),
]
QuantizeOption = Annotated[
    Literal["int8"] | None, typer.Option(help="Round the weights: a quarter of the bytes, and faster on a CPU.")
]
SizeOption = Annotated[str, typer.Option("--size", help="A fraction of the teacher such as 0.7, or a variant id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
