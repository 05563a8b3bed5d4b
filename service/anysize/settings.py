"""Every setting of the service, with its limit and its default. Frozen; environment variables begin with ANYSIZE_."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from anysize.errors import SettingsError

if TYPE_CHECKING:
    import torch

DType = Literal["float32", "bfloat16", "float16"]


class Settings(BaseSettings):
    """Settings of one service process.

    Attributes:
        family: folder of the family; the built-in one by default.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        device: `cpu`, `cuda`, `cuda:1` and so on; `auto` takes a GPU where there is one.
        dtype: of the weights in memory.
        threads: for torch on the CPU; 0 leaves the choice to torch.
        max_queued_requests: requests that may wait; one more is refused with 429.
        max_prompt_chars: characters in a prompt or in all messages together.
        max_tokens: the most tokens one request may ask for.
        max_body_bytes: of a request's body.
        prefill_chunk_tokens: prompt tokens run at once, between two looks at whether the client is still there.
        drain_s: how long running and waiting requests may take after SIGTERM.
        stall_s: how long one step may take before `/health` says that the engine is stuck.
    """

    model_config = SettingsConfigDict(env_prefix="ANYSIZE_", frozen=True, extra="forbid")

    family: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")
    dtype: DType = "float32"
    threads: int = Field(default=0, ge=0, le=1024)
    max_queued_requests: int = Field(default=64, ge=1, le=10_000)
    max_prompt_chars: int = Field(default=200_000, ge=1, le=10_000_000)
    max_tokens: int = Field(default=2048, ge=1, le=1_000_000)
    max_body_bytes: int = Field(default=2 << 20, ge=1024, le=1 << 30)
    prefill_chunk_tokens: int = Field(default=512, ge=16, le=65536)
    drain_s: float = Field(default=30.0, ge=0, le=3600)
    stall_s: float = Field(default=60.0, gt=0, le=3600)

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
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SettingsError(f"{name} (or ANYSIZE_{name.upper()}): {first['msg']}, got {first['input']!r}") from error


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
