"""One line of the doctor's report."""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from anysize.errors import AnysizeError

Outcome = Literal["ok", "warn", "fail"]


class Check(BaseModel):
    """What was found.

    Attributes:
        name: what was looked at.
        outcome: `warn` where the service runs but could do better, `fail` where it does not run.
        found: what is so.
        advice: what to do, unless all is well.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    outcome: Outcome
    found: str
    advice: str = ""


def tried(name: str, look: Callable[[], Check], advice: str, *, outcome: Outcome = "fail") -> Check:
    """What a look gives; where it raises an error that is meant for users, that error.

    Args:
        name: of the check.
        look: at what is checked.
        advice: where the error's message does not say what to do.
        outcome: of an error.
    """
    try:
        return look()
    except AnysizeError as error:
        return Check(name=name, outcome=outcome, found=" ".join(str(error).split()), advice=advice)
