"""Every setting of the service, with its limit and its default. Frozen; environment variables begin with ANYSIZE_."""

import re
from contextlib import suppress
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from anysize.errors import SettingsError

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]
# What may stand in a header and in a list, and cannot be guessed.
_KEY = re.compile(r"[!-+\--~]{16,256}")
_MAX_KEYS = 1000
_ORIGIN = re.compile(r"\*|https?://[A-Za-z0-9.\[\]:-]{1,255}")

DeviceName = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")]


class Settings(BaseSettings):
    """Settings of one service process."""

    model_config = SettingsConfigDict(
        env_prefix="ANYSIZE_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # keys are among it
    )

    family: Path | None = None
    """Folder of the family; the built-in one by default."""
    teacher: str | None = None
    """Instead of a family: the teacher's checkpoint, a folder or a name on the Hugging Face hub (NAME@REVISION)."""
    student: str | None = None
    """The student that belongs to `teacher`, in the format of the paper's authors (with `student_config.json`)."""
    patch_order: Literal["last_to_first", "first_to_last"] | None = None
    """Of such a pair; by default first_to_last for Llama and last_to_first for all others, as in the paper."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    device: DeviceName = "auto"
    """cpu, cuda, cuda:1 and so on; auto takes a GPU where there is one."""
    dtype: DType = "float32"
    """Type of the weights, and of keys and values, in memory."""
    threads: int = Field(default=0, ge=0, le=1024)
    """For torch on the CPU; 0 leaves the choice to torch."""
    quantize: Literal["int8"] | None = None
    """int8 rounds the weights of linear maps, on a CPU with compiled kernels: a quarter of the bytes, and faster."""
    compile: bool | None = None
    """Whether to use kernels compiled for this machine's processor, for float32 on a CPU: compiled at the first start,
    in seconds, and kept in the cache folder. By default they are used where a C++ compiler is there."""
    kv_bytes: int = Field(default=0, ge=0, le=1 << 50)
    """Memory for keys and values; 0 takes a quarter of what is free once the weights are loaded (of the container's
    limit where there is one, of the GPU's memory on a GPU), but no more than `max_running_requests` answers of the
    longest context can use."""
    prefix_cache: bool = True
    """Keep what was computed of prompts, in memory for keys and values that no request needs, for prompts that begin
    alike: those of the same size, and up to the first layer that differs those of other sizes."""
    max_running_requests: int = Field(default=32, ge=1, le=4096)
    """Answers that are generated side by side; memory for keys and values may allow fewer."""
    max_step_tokens: int = Field(default=256, ge=2, le=1 << 20)
    """Tokens of prompts and answers in one step of the model; more than max_running_requests. Less makes those who
    already get their answer wait less for the prompts of others."""
    prefill_chunk_tokens: int = Field(default=128, ge=16, le=65536)
    """Tokens of one prompt in one step."""
    max_queued_requests: int = Field(default=64, ge=1, le=10_000)
    """Requests that may wait; one more is refused with 429."""
    max_queued_tokens: int = Field(default=1 << 18, ge=1, le=1 << 32)
    """Tokens, of prompts and longest answers, that may wait; a request that needs more is refused with 429."""
    queue_timeout_s: float = Field(default=60.0, gt=0, le=86400)
    """How long a request may wait for its turn; then it gets a 429."""
    max_prompt_chars: int = Field(default=200_000, ge=1, le=10_000_000)
    """Characters in a prompt or in all messages together."""
    max_tokens: int = Field(default=2048, ge=1, le=1_000_000)
    """The most tokens one request may ask for, in all its answers together."""
    max_body_bytes: int = Field(default=2 << 20, ge=1024, le=1 << 30)
    """Of a request's body."""
    max_connections: int = Field(default=512, ge=1, le=100_000)
    """Connections at a time, idle ones included; one more gets a 503 and is closed. Each takes a file descriptor."""
    head_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """How long the head of a request may take to arrive; then its connection is closed."""
    body_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """How long a request's body may take to arrive; then it gets a 408."""
    write_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    """How long a client that streams may take nothing before its connection is closed."""
    drain_s: float = Field(default=30.0, ge=0, le=3600)
    """How long running and waiting requests may take after SIGTERM."""
    stall_s: float = Field(default=60.0, gt=0, le=3600)
    """How long one step may take before `/health` says that the engine is stuck and every request gets an error."""

    api_keys: SecretStr | None = None
    """Keys of 16 characters or more, separated by commas, of which each request must bring one (`Authorization: Bearer
    KEY`). By default nobody is asked for a key."""
    api_keys_file: Path | None = None
    """The same in a file, one key a line, as container secrets are."""
    rate_limit: str | None = Field(default=None, pattern=r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$")
    """How many requests for answers each key may send, such as 60/minute; each address where there are no keys. One
    more is refused with 429. No limit by default."""
    cors_origins: str | None = None
    """Origins, separated by commas, whose pages may use this service from a browser, such as https://example.org; `*`
    is all. None by default."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """Serve `/metrics` on this port, without a key, and nowhere else; 0 takes a free one."""
    admin_host: str = "127.0.0.1"
    """Address of that port."""

    log_format: Literal["text", "json"] = "text"
    """json writes one object a line. Each request is one line; none holds text of a prompt, an answer or a key."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """debug adds the requests to `/health`, `/ready` and `/metrics`."""
    otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^/\s]+(/\S*)?$")
    """Where to send OpenTelemetry traces over OTLP/HTTP, such as http://127.0.0.1:4318 (`pip install
    'anysize[tracing]'`); nowhere by default."""

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        if (self.teacher is None) != (self.student is None):
            raise ValueError("teacher and student are given together: --teacher PATH_OR_HUB --student PATH_OR_HUB")
        if self.teacher is not None and self.family is not None:
            raise ValueError("give either a family or a teacher and a student, not both")
        if self.teacher is None and self.patch_order is not None:
            raise ValueError("patch_order is for a teacher and a student; a family has its own")
        return self

    @model_validator(mode="after")
    def _prompts_move(self) -> Self:
        if self.max_step_tokens <= self.max_running_requests:
            raise ValueError(
                f"max_step_tokens ({self.max_step_tokens}) must be more than max_running_requests "
                f"({self.max_running_requests}), or a full batch would leave prompts no room"
            )
        return self

    @model_validator(mode="after")
    def _doors_are_doors(self) -> Self:
        if (self.api_keys is not None or self.api_keys_file is not None) and not self.keys:
            # Somebody wanted keys: a secret that came out empty must open no door.
            raise ValueError("api_keys or api_keys_file is set, but holds no key; leave it out to ask nobody for one")
        if self.cors_origins is not None and not all(map(_ORIGIN.fullmatch, self.origins)):
            raise ValueError(
                "cors_origins (or ANYSIZE_CORS_ORIGINS) are origins separated by commas, such as "
                "https://example.org,http://127.0.0.1:3000, without a path; or *"
            )
        return self

    @cached_property
    def keys(self) -> tuple[SecretStr, ...]:
        """The API keys, of both settings together; none where nobody needs one."""
        listed = self.api_keys.get_secret_value().split(",") if self.api_keys else []
        if self.api_keys_file is not None:
            listed += _lines(self.api_keys_file)
        given = list(dict.fromkeys(filter(None, map(str.strip, listed))))
        if len(given) > _MAX_KEYS:
            raise ValueError(f"there are {len(given)} API keys, more than the {_MAX_KEYS} that a service takes")
        if not all(map(_KEY.fullmatch, given)):
            raise ValueError(
                "an API key (in api_keys or api_keys_file) has 16 to 256 printable ASCII characters, and neither space "
                "nor comma; make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        return tuple(map(SecretStr, given))

    @property
    def origins(self) -> tuple[str, ...]:
        """Origins of pages that may use this service."""
        return tuple(filter(None, map(str.strip, (self.cors_origins or "").split(","))))

    @property
    def is_reachable(self) -> bool:
        """Whether other machines can reach the port."""
        with suppress(ValueError):
            return not ip_address(self.host).is_loopback
        return self.host != "localhost"

    @property
    def pair(self) -> tuple[str, str] | None:
        """Teacher and student, where they are given instead of a family."""
        return (self.teacher, self.student) if self.teacher is not None and self.student is not None else None

    def torch_device(self) -> "torch.device":
        """The device, with `auto` resolved.

        Raises:
            SettingsError: a GPU is asked for where there is none.
        """
        return resolve_device(self.device)

    def torch_dtype(self) -> "torch.dtype":
        """The dtype as torch knows it."""
        return torch_dtype(self.dtype)


def load_settings(**given: object) -> Settings:
    """Settings from what is given, else the environment, else the defaults.

    Raises:
        SettingsError: a value is out of range; the message names the setting.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise SettingsError(first["msg"].removeprefix("Value error, ")) from error
        name = str(first["loc"][0])
        raise SettingsError(f"{name} (or ANYSIZE_{name.upper()}): {first['msg']}, got {first['input']!r}") from error


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"api_keys_file {path} cannot be read: {type(error).__name__}") from error


def settings_help() -> str:
    """A line of Markdown a setting: its environment variable, its default and what it is for."""
    lines = [
        f"- ANYSIZE_{name.upper()}{'' if field.default is None else f' ({field.default})'}: "
        f"{' '.join((field.description or '').split())}"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(lines)


def resolve_device(name: str) -> "torch.device":
    """A torch device by name; `auto` takes a GPU where there is one."""
    import torch  # takes a second, which `--help` need not wait for

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise SettingsError(f"device {name} was asked for, but torch sees {torch.cuda.device_count()} GPUs")
    return device


def torch_dtype(name: DType) -> "torch.dtype":
    """A torch dtype by name."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
