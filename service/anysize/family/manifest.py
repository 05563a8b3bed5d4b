"""`family.json`: what a family folder holds, as frozen, validated data. Knows nothing of tensors."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anysize.errors import AnysizeError, ArtifactError, VariantError
from anysize.family.blocks import BlockMap
from anysize.family.order import OrderName, positions_in_order
from anysize.family.pretrained import read_json
from anysize.family.variant import Variant

SCHEMA_VERSION = 1
MANIFEST = "family.json"
_MAX_NAME = 200

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
Layer = Annotated[int, Field(ge=0, lt=1024)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BuiltinTeacher(_Part):
    """The teacher is the one that `anysize fetch` brings."""

    kind: Literal["builtin"] = "builtin"
    name: FileName
    fingerprint: Sha256


class HubTeacher(_Part):
    """The teacher is downloaded from the Hugging Face hub, at one revision."""

    kind: Literal["hub"] = "hub"
    repo: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    fingerprint: Sha256


class FolderTeacher(_Part):
    """The teacher is a checkpoint in the folder `teacher` of the family."""

    kind: Literal["folder"] = "folder"
    fingerprint: Sha256


class FullStudent(_Part):
    """The student has weights of its own."""

    kind: Literal["full"] = "full"


class DeltaStudent(_Part):
    """The student is a set of low-rank updates over the kept teacher layers."""

    kind: Literal["delta"] = "delta"
    rank: int = Field(ge=1, le=1024)


class FileEntry(_Part):
    """One file of the folder."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class Measurement(_Part):
    """The quality of one variant on one text.

    Attributes:
        variant: its id.
        dataset: name of the text.
        dataset_sha256: of its bytes.
        perplexity: exp of the mean negative log-likelihood of a token.
        kl: mean KL(teacher || variant) of a token, in nats, where it was measured.
        tokens: how many tokens were scored.
        perplexity_int8: the same with `--quantize int8`, where it was measured.
    """

    variant: str
    dataset: str = Field(max_length=200)
    dataset_sha256: Sha256
    perplexity: float = Field(gt=0)
    kl: float | None = Field(default=None, ge=-1e-3)
    tokens: int = Field(ge=1)
    perplexity_int8: float | None = Field(default=None, gt=0)


class Provenance(_Part):
    """How the student was made.

    Attributes:
        command: the command line.
        recipe: every value of the recipe.
        recipe_sha256: of `recipe` as JSON with sorted keys.
        started_from_sha256: of the student's file that the run went on from, where it did.
        data: name of the training text.
        data_sha256: of its bytes, where it was a file.
        tokens_sha256: of the token ids that were made of it.
        code_sha256: of the modules that made it.
        tokens: tokens the student was trained on.
        seconds: time the training took.
        versions: of the packages that took part.
    """

    command: str = Field(max_length=4000)
    recipe: dict[str, Any]
    recipe_sha256: Sha256 | None = None
    started_from_sha256: Sha256 | None = None
    data: str = Field(max_length=1000)
    data_sha256: Sha256 | None = None
    tokens_sha256: Sha256 | None = None
    code_sha256: Sha256 | None = None
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    versions: dict[str, str]


class Manifest(_Part):
    """A family, without its weights.

    Attributes:
        schema_version: of this file.
        name: of the family.
        architecture: `model_type` of teacher and student.
        teacher_layers: N.
        kept_layers: the teacher layers that start a block, counted from 0.
        teacher: where the teacher comes from.
        student: its kind.
        patch_order: in which positions are patched as sizes grow.
        ladder: ids of the served sizes, smallest first; by default what the patch order gives.
        files: every file of the folder but this one.
        provenance: how the student was made, where that is known.
        ladder_command: the command line that found the ladder, where one did.
        measurements: quality of the served sizes.
        measurements_command: the command line that measured them.
        untrained: quality of the same student before it was distilled.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    architecture: str = Field(max_length=64)
    teacher_layers: int = Field(ge=1, le=1024)
    kept_layers: tuple[Layer, ...] = Field(max_length=1024)
    teacher: Annotated[BuiltinTeacher | HubTeacher | FolderTeacher, Field(discriminator="kind")]
    student: Annotated[FullStudent | DeltaStudent, Field(discriminator="kind")]
    patch_order: OrderName | tuple[Annotated[int, Field(ge=1, le=1024)], ...] = "last_to_first"
    ladder: tuple[str, ...] | None = Field(default=None, min_length=1, max_length=4096)
    files: dict[str, FileEntry] = Field(max_length=256)
    provenance: Provenance | None = None
    ladder_command: str | None = Field(default=None, max_length=4000)
    measurements: tuple[Measurement, ...] = Field(default=(), max_length=100_000)
    measurements_command: str | None = Field(default=None, max_length=4000)
    untrained: Measurement | None = None

    def block_map(self) -> BlockMap:
        """The block map.

        Raises:
            BlockMapError: the kept layers make none.
        """
        return BlockMap(self.kept_layers, self.teacher_layers)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `family.json`.

    Raises:
        ArtifactError: it is missing, damaged, of another version, or contradicts itself.
    """
    path = folder / MANIFEST
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(path, "leads outside the folder")
    raw = read_json(path)
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ArtifactError(path, f"has schema version {version!r}; this release reads version {SCHEMA_VERSION}")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(path, f"{where}: {first['msg']}") from error
    try:
        positions = manifest.block_map().student_layers
        positions_in_order(manifest.patch_order, positions)
        ladder = [Variant.parse(text, positions) for text in manifest.ladder or ()]
        if len(set(ladder)) < len(ladder):
            raise VariantError("the ladder names a size twice")
        for measured in manifest.measurements:
            Variant.parse(measured.variant, positions)
    except AnysizeError as error:
        raise ArtifactError(path, str(error)) from error
    for name in manifest.files:
        _refuse_outside(path, name)
    return manifest


def _refuse_outside(path: Path, name: str) -> None:
    parts = name.split("/")
    plain = all(part.isascii() and part and not part.startswith(".") and "\\" not in part for part in parts)
    if (
        not plain
        or len(parts) > 2
        or len(name) > _MAX_NAME
        or any(ord(character) < 32 or character == ":" for character in name)
    ):
        raise ArtifactError(path, f"names a file that is not plainly inside the folder: {name!r}")
