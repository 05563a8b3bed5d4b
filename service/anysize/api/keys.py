"""API keys: who brings one that is known."""

import hashlib
import hmac
from collections.abc import Iterable

from pydantic import SecretStr
from starlette.datastructures import Headers

from anysize.errors import AccessError

_SCHEME = "bearer"


class ApiKeys:
    """The keys of one service. Only their hashes are kept, and they are compared in constant time.

    Args:
        keys: any of them will do.
    """

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._digests = tuple(_digest(key.get_secret_value()) for key in keys)

    def holder(self, headers: Headers) -> str:
        """Whose key a request brings: a name that is no secret, and the same for every request with this key.

        Args:
            headers: of the request; `Authorization: Bearer KEY` is the one that counts.

        Raises:
            AccessError: there is no key, or one that is not known.
        """
        given = headers.getlist("authorization")
        scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if scheme.lower() != _SCHEME or not key.strip():
            raise AccessError("this needs an API key: send the header `Authorization: Bearer KEY`")
        digest, found = _digest(key.strip()), None
        for known in self._digests:  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = known
        if found is None:
            raise AccessError("this API key is not known here")
        return found.hex()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("latin-1", errors="replace")).digest()
