"""Who may use a route, and how often. Asked by the route itself, before a byte of the request's body is read."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from anysize.api.keys import ApiKeys
from anysize.api.rate_limit import RateLimit
from anysize.api.record import current
from anysize.errors import AccessError, RateLimitError
from anysize.settings import Settings

# A provider gives one customer a whole network of this many bits.
_IPV6_PREFIX = 64

# For the schema alone: tells clients and /docs how a key is sent.
BEARER = HTTPBearer(auto_error=False, scheme_name="API key", description="one of ANYSIZE_API_KEYS")


@dataclass(frozen=True, slots=True)
class Access:
    """What one service asks of its callers.

    Attributes:
        keys: that a request must bring one of, where there are any.
        rate_limit: of each caller, where there is one.
    """

    keys: ApiKeys | None
    rate_limit: RateLimit | None

    @classmethod
    def of(cls, settings: Settings) -> "Access":
        """From settings."""
        return cls(
            ApiKeys(settings.keys) if settings.keys else None,
            RateLimit(settings.rate_limit) if settings.rate_limit else None,
        )

    def caller(self, request: Request) -> str:
        """Who asks: the holder of a key, or an address where nobody needs a key.

        Raises:
            AccessError: a key is needed, and the request has none that is known.
        """
        return self.keys.holder(request.headers) if self.keys else _address(request)


class KeyRoute(APIRoute):
    """A route for those who have a key, where the service has keys."""

    is_limited = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's own handler, behind the question who asks."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            service = request.app.state.service
            access: Access = service.access
            try:
                caller = access.caller(request)
                if self.is_limited and access.rate_limit is not None:
                    await access.rate_limit.count(caller)
            except AccessError as error:
                if (record := current.get()) is not None:
                    record.error = type(error).__name__
                raise
            except RateLimitError as error:
                service.metrics.failed(error)
                raise
            return await handle(request)

        return guarded


class AnswerRoute(KeyRoute):
    """A route that costs the model something, and so counts against the rate limit."""

    is_limited = True


def _address(request: Request) -> str:
    if request.client is None:
        return ""
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return request.client.host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(int(address) >> (128 - _IPV6_PREFIX))
    return str(address)
