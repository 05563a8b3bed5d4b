"""The log of a service: lines for people, or one JSON object a line. Holds nothing of what clients wrote."""

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

from anysize.settings import Settings

logger = logging.getLogger("anysize")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
# They put headers, addresses or bodies into what they say at debug level.
_CHATTY = ("asyncio", "httpcore", "httpx", "huggingface_hub", "opentelemetry", "urllib3", "uvicorn", "watchfiles")


def set_up_logs(settings: Settings) -> None:
    """Send every log line of this process to standard error, in the form that the settings name."""
    handler = _StandardError()
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    logging.basicConfig(level=_LEVELS[settings.log_level], handlers=[handler], force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_new)


def announcer(settings: Settings, say: Callable[[str], None]) -> Callable[[str], None]:
    """What tells in one line what is being done: `say`, or a line of the log where that is read by machines."""
    return logger.info if settings.log_format == "json" else say


class TextLines(logging.Formatter):
    """A line: when, how bad, where from, what, and fields as `name=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's name)
        """The line without what an exception adds."""
        said = " ".join(f"{name}={_plain(value)}" for name, value in _fields(record).items() if value is not None)
        return f"{super().formatMessage(record)} {said}".rstrip()


class JsonLines(logging.Formatter):
    """One JSON object a line, with the fields beside `time`, `level`, `logger`, `message` and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _StandardError(logging.StreamHandler[TextIO]):
    """To whatever standard error is when a line is written; whoever has replaced it may have closed what it was."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Standard error."""
        return sys.stderr


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return getattr(record, "fields", {})


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_new(record: logging.LogRecord) -> bool:
    """Whether uvicorn says something that the app has not said itself, and without the error's message."""
    return not str(record.msg).startswith("Exception in ASGI application")
