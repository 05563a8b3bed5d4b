"""Connections, so many and no more, that end where a client only holds them: sends no head, takes no answer."""

import asyncio
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from anysize.settings import Settings

# In `write_timeout_s`: less is no reader, but somebody who holds a connection.
_LEAST_TAKEN_BYTES = 16 << 10


class Connection(H11Protocol):
    """One connection of uvicorn's, with clocks for what uvicorn waits for without end.

    A body that somebody waits for has its limit in `BodyLimit`, which can answer in the shape of the route.

    Attributes:
        max_connections: that are served at a time.
        head_timeout_s: how long a request's head may take to arrive, and so what is left of a body whose request has
            been answered already.
        write_timeout_s: how long the client may take next to nothing while more is buffered than should be, or while
            the connection only waits to hand over its last bytes.
    """

    max_connections: ClassVar[int]
    head_timeout_s: ClassVar[float]
    write_timeout_s: ClassVar[float]

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._owed: object = None
        self._sending: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Wait for a head, unless there are too many who do."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._turn_away()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Go on with what has arrived."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next head."""
        super().on_response_complete()
        self._watch()

    def timeout_keep_alive_handler(self) -> None:
        """Close, as nobody wants more."""
        if not self.transport.is_closing():
            super().timeout_keep_alive_handler()
            self._watch()

    def shutdown(self) -> None:
        """Close as soon as the answer under way, if there is one, is out."""
        super().shutdown()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; whoever still works on what came before it writes into the void."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # in the middle of an answer, or behind it
            self.transport.close()

    def pause_writing(self) -> None:
        """Wait for the client to take what is buffered."""
        super().pause_writing()
        self._must_take()

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        _stop(self._taking)
        self._taking = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        _stop(self._sending)
        _stop(self._taking)
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Let the clock run while the client owes something, from when it began to."""
        if self.transport.is_closing():
            self._must_take()
        owed = self._owes()
        if owed is self._owed:
            return
        _stop(self._sending)
        self._owed = owed
        self._sending = self.loop.call_later(self.head_timeout_s, self._let_go) if owed is not None else None

    def _owes(self) -> object:
        """What the client has to send: a state of h11's, or None if it is not the client who is waited for."""
        if self.transport.is_closing():
            return None
        state = self.conn.their_state
        is_unread = state is h11.SEND_BODY and self.cycle.response_complete
        return state if state is h11.IDLE or is_unread else None

    def _let_go(self) -> None:
        """The client has not sent in time what it owes."""
        has_begun, _ = self.conn.trailing_data
        if self.conn.their_state is h11.IDLE and has_begun:
            self._say(408, f"The head of the request did not arrive within {self.head_timeout_s:g} s.")
        self.transport.close()
        self._watch()

    def _turn_away(self) -> None:
        self._say(503, f"The service has the {self.max_connections} connections that it allows. Try again later.")
        self.transport.close()

    def _say(self, status: int, message: str) -> None:
        """A whole answer, where no app is asked for one."""
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        head = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
        for event in (head, h11.Data(data=message.encode()), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))

    def _must_take(self) -> None:
        if self._taking is None:
            before = self.transport.get_write_buffer_size()
            self._taking = self.loop.call_later(self.write_timeout_s, self._look_what_is_taken, before)

    def _look_what_is_taken(self, bytes_before: int) -> None:
        self._taking = None
        if self.transport.get_write_buffer_size() > bytes_before - _LEAST_TAKEN_BYTES:
            self.transport.abort()
        else:
            self._must_take()


def connections(settings: Settings) -> type[Connection]:
    """The connections of a service, as uvicorn's setting `http` takes them."""

    class Timed(Connection):
        max_connections = settings.max_connections
        head_timeout_s = settings.head_timeout_s
        write_timeout_s = settings.write_timeout_s

    return Timed


def _stop(clock: asyncio.TimerHandle | None) -> None:
    if clock is not None:
        clock.cancel()
