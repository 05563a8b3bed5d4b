"""Metrics on a port of their own, for operators who keep them apart from what strangers reach."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from anysize.errors import SettingsError
from anysize.settings import Settings


@contextmanager
def metrics_apart(settings: Settings, registry: CollectorRegistry, say: Callable[[str], None]) -> Iterator[None]:
    """Serve metrics on a port of their own, where the settings name one.

    Args:
        settings: of the service.
        registry: what is served.
        say: told where.

    Raises:
        SettingsError: the address cannot be listened on.
    """
    if settings.admin_port is None:
        yield
        return
    host, port = settings.admin_host, settings.admin_port
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host} port {port} for metrics: {error.strerror}; choose others with ANYSIZE_ADMIN_HOST "
            "and ANYSIZE_ADMIN_PORT"
        ) from error
    say(f"metrics on http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
