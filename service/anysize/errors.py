"""Every error a user can cause, in one tree.

AnysizeError
├── SettingsError       a setting, an option or an environment variable is wrong
├── FetchError          the built-in teacher cannot be brought or does not match its hash
├── ArtifactError       a family folder or a checkpoint is damaged, hostile or unsupported
├── BlockMapError       kept layers that make no block map
├── VariantError        an id that names no variant of this family
├── BudgetError         no served size fits the bounds
├── RequestError        a request that this family can never answer
│   └── ModelNameError  a name that no model served here has
├── AccessError         a request without an API key, or with one that is not known
├── CalibrationError    no calibration of this machine that can be used
├── OverloadedError     the queue is full; the same request may succeed later
│   ├── RateLimitError  whoever asks has asked for as much as they may
│   └── BusyError       the load keeps every size from a latency budget
├── EngineError         the model failed, or the service is stopping
└── DivergedError       the loss of a training run is no longer a number
"""

from pathlib import Path


class AnysizeError(Exception):
    """Base of all errors that are meant for a user. The message says what, where and what to do."""


class SettingsError(AnysizeError):
    """A setting, a command line option or an environment variable is wrong."""


class FetchError(AnysizeError):
    """The built-in teacher cannot be brought, or what came does not match its pinned hash."""


class ArtifactError(AnysizeError):
    """A family folder or checkpoint cannot be trusted or used.

    Attributes:
        path: the file (or folder) at fault.
        reason: what is wrong with it, in one sentence.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class BlockMapError(AnysizeError, ValueError):
    """Kept layers that do not partition the teacher into contiguous blocks."""


class VariantError(AnysizeError, ValueError):
    """An id, or a set of positions, that names no variant of this family."""


class BudgetError(AnysizeError):
    """No served size fits inside the budget."""


class RequestError(AnysizeError):
    """A request that this family can never answer, whatever the load.

    Attributes:
        field: of the request, that is at fault, where one is.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ModelNameError(RequestError):
    """A name that no model served here has."""


class AccessError(AnysizeError):
    """A request without an API key where one is needed, or with one that the service does not know."""


class CalibrationError(AnysizeError):
    """A latency cannot be predicted: this machine has not been calibrated, or what was stored cannot be used."""


class OverloadedError(AnysizeError):
    """The queue is full, or what is in it is too much for this request.

    Attributes:
        retry_after_s: whole seconds after which trying again makes sense.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitError(OverloadedError):
    """Whoever asks has asked for as much as they may; others are answered as before."""


class BusyError(OverloadedError):
    """No size keeps the latency budget beside what runs and waits now; with nothing beside it one would."""


class EngineError(AnysizeError):
    """The model failed while it answered, or the service is stopping."""


class DivergedError(AnysizeError):
    """The loss of a training run, or its gradient, is no longer a number."""
