"""Recipes: everything that decides a distillation run, as frozen data."""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from anysize.family.order import OrderName
from anysize.settings import DeviceName

_SHIPPED = "recipe:"

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Weight = Annotated[float, Field(ge=0.0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EveryNth(_Part):
    """Keep every n-th layer, the first `first` and the last `last` (paper, Equations 2 and 3)."""

    method: Literal["every_nth"] = "every_nth"
    n: int = Field(default=2, ge=1)
    first: int = Field(default=1, ge=1)
    last: int = Field(default=2, ge=0)


class KeptLayers(_Part):
    """Keep the listed teacher layers, counted from 0."""

    method: Literal["layers"] = "layers"
    layers: tuple[int, ...]


class _Measured(_Part):
    """Keep the layers that a measurement on calibration text asks for.

    Attributes:
        layers: M, how many are kept.
        longest_block: the most teacher layers that one student layer stands for.
        calibration_tokens: taken from the first documents of the training text.
    """

    layers: int = Field(ge=1, le=1024)
    longest_block: int = Field(default=5, ge=1, le=1024)
    calibration_tokens: int = Field(default=768, ge=64, le=1 << 20)


class Similarity(_Measured):
    """Blocks whose first and last layers have similar outputs (paper, E.2)."""

    method: Literal["similarity"]


class KLGreedy(_Measured):
    """Drop, one by one, the layers whose loss is felt least, by KL divergence of the pruned teacher."""

    method: Literal["kl"]


class BlockInfluence(_Measured):
    """Drop the layers that change their input least (ShortGPT)."""

    method: Literal["block_influence"]


class FromFamily(_Part):
    """Start from the student of a family of the same teacher, and train it further.

    Attributes:
        path: the family's folder, or `builtin`.
    """

    method: Literal["family"]
    path: str


Initialise = Annotated[
    EveryNth | KeptLayers | Similarity | KLGreedy | BlockInfluence | FromFamily, Field(discriminator="method")
]


class Student(_Part):
    """What is trained.

    Attributes:
        kind: `full` trains weights of its own (the paper), `delta` low-rank updates over the kept teacher layers.
        rank: of the updates; `delta` only.
        initialise: which teacher layers are kept.
        weights: `teacher` starts from the kept layers, `merged` from each block's layers merged into its first as LaCo
            does (Equation 4), `random` from chance (the paper's baseline). A `delta` student has the kept layers' own
            tensors under its updates, so only `teacher` is for it.
        stored_dtype: of the student's file; training itself is in float32.
    """

    kind: Literal["full", "delta"] = "full"
    rank: int = Field(default=32, ge=1, le=1024)
    initialise: Initialise = EveryNth()
    weights: Literal["teacher", "merged", "random"] = "teacher"
    stored_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def model_post_init(self, _context: Any) -> None:
        """Refuse other weights than the teacher's where there are none of the student's own to begin with."""
        if self.weights != "teacher" and (self.kind == "delta" or isinstance(self.initialise, FromFamily)):
            raise ValueError(f"{self.weights} weights are for full students that do not start from a family")


class Data(_Part):
    """What it is trained on.

    Attributes:
        source: a `.jsonl`, `.txt` or `.parquet` file, the name of a Hugging Face dataset, or `recipe:NAME` for a text
            that ships with the recipes.
        subset: configuration of a Hugging Face dataset.
        revision: commit, branch or tag of a Hugging Face dataset.
        split: split of a Hugging Face dataset.
        text_field: the field that holds the text.
        first_row, rows: the slice of the rows that is used.
        sequence_length: tokens of one row of a batch.
        packing: how documents fill rows. `documents` puts them end to end, each attending to itself alone, with
            positions of its own; `stream` lets them attend across their borders; `one_per_row` cuts each at the
            sequence length and pads it, as the paper does.
        separator: token put behind each document; the tokenizer's end of sequence by default.
        held_out: rows set aside before training, of documents that are not trained on, to evaluate the run on.
        cache: folder for tokenised text, shared by runs; `tokens` in the user's cache by default.
    """

    source: str
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    text_field: str = "text"
    first_row: int = Field(default=0, ge=0)
    rows: int | None = Field(default=None, ge=1)
    sequence_length: int = Field(default=2048, ge=8, le=1 << 20)
    packing: Literal["documents", "stream", "one_per_row"] = "documents"
    separator: str | None = None
    held_out: int = Field(default=0, ge=0, le=1 << 16)
    cache: str | None = None

    @property
    def file(self) -> Path:
        """Where the source lies if it is a file."""
        if self.source.startswith(_SHIPPED):
            return Path(str(resources.files("anysize_training"))) / "recipes" / Path(self.source[len(_SHIPPED) :]).name
        return Path(self.source)


class Objective(_Part):
    """Equation 1 and its weights (paper, Table 2).

    Attributes:
        cross_entropy: weight of the cross entropy; 1 in the paper.
        kl: lambda_KL.
        cosine: lambda_cos times (M + 1): each distance has weight `cosine / (M + 1)`.
        temperature: tau of the KL divergence.
        embedding_pair: whether the embedding outputs are aligned too, as in the authors' code; Equation 1 has M pairs.
        last_pair: whether the last pair is taken before the final norm, as Equation 1 says, or after it, as the
            authors' code does.
    """

    cross_entropy: Weight = 1.0
    kl: Weight = 0.1
    cosine: Weight = 2.0
    temperature: Positive = 1.0
    embedding_pair: bool = False
    last_pair: Literal["before_norm", "after_norm"] = "before_norm"


class Optimizer(_Part):
    """AdamW with a cosine schedule after a linear warm-up (paper, Table 2)."""

    learning_rate: Positive = 3e-4
    final_learning_rate_ratio: Fraction = 0.0
    warmup_ratio: Fraction = 0.01
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    epsilon: Positive = 1e-8
    weight_decay: Weight = 0.1
    max_grad_norm: Positive = 1.0


class Run(_Part):
    """How long and how large.

    Attributes:
        steps: optimizer steps.
        batch_size: rows in one optimizer step, over all processes.
        micro_batch_size: rows that go through the models at once in one process.
        checkpoint_every: steps between checkpoints; the newest two are kept.
        evaluate_every: steps between evaluations on the held-out rows; 0 evaluates at the end alone.
        dtype: of the forward pass; `bfloat16` autocasts over float32 weights.
        teacher_dtype: of the teacher's weights in memory; `bfloat16` for `full` students only.
        activation_checkpointing: keep only the inputs of the student's layers and compute the rest again.
        parallel: with several processes, `replicate` gives each all weights, `shard` a part of student and teacher.
        device: `cpu`, `cuda`, or `auto`.
        seed: of initialisation and data order.
    """

    steps: int = Field(default=500, ge=1)
    batch_size: int = Field(default=2048, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    checkpoint_every: int = Field(default=50, ge=1)
    evaluate_every: int = Field(default=0, ge=0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    teacher_dtype: Literal["float32", "bfloat16"] = "float32"
    activation_checkpointing: bool = False
    parallel: Literal["replicate", "shard"] = "replicate"
    device: DeviceName = "auto"
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    def model_post_init(self, _context: Any) -> None:
        """Check that micro-batches fill the batch, and that the precisions go together."""
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        if self.teacher_dtype == "bfloat16" and self.dtype != "bfloat16":
            raise ValueError("a bfloat16 teacher beside a float32 student needs dtype bfloat16")


class Recipe(_Part):
    """One distillation run, whole.

    Attributes:
        name: of the family that comes out.
        teacher: `builtin:smollm2-135m`, a checkpoint folder, or a Hugging Face model name.
        patch_order: in which positions are patched as sizes grow (paper, Appendix B).
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    teacher: str
    student: Student = Student()
    patch_order: OrderName | tuple[int, ...] = "last_to_first"
    data: Data
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    run: Run = Run()

    def model_post_init(self, _context: Any) -> None:
        """Refuse a teacher of low precision under updates that are trained on it in full."""
        if self.student.kind == "delta" and self.run.teacher_dtype != "float32":
            raise ValueError("a delta student shares its teacher's tensors, so run.teacher_dtype must be float32")
