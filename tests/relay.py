"""A relay of loopback between a program and a server, whose connections can be made to die in different ways."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_RESET = struct.pack("ii", 1, 0)


class Relay:
    """Listens on `port` and passes on to `target`, a port of loopback."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.open = True
        """Whether new connections are passed on; if not, they are closed at once."""
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._mute: set[socket.socket] = set()
        self._guard = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close_all(self) -> int:
        """End every connection in peace; how many there were."""
        return self._end(lambda _client: None)

    def reset_all(self) -> int:
        """End every connection as a machine does that knows nothing of it any more."""
        return self._end(lambda client: client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET))

    def silence_all(self) -> int:
        """Keep every connection that there is and pass nothing on any more, as where a cable is cut."""
        with self._guard:
            self._mute |= {one for pair in self._pairs for one in pair}
            return len(self._pairs)

    def close(self) -> None:
        """Stop listening and end what there is."""
        self._listener.close()
        self.close_all()

    def _end(self, prepare: Callable[[socket.socket], object]) -> int:
        with self._guard:
            pairs, self._pairs = self._pairs, []
            self._mute |= {one for pair in pairs for one in pair}
        for client, server in pairs:
            prepare(client)
            for one in (client, server):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RD)
                one.close()
        return len(pairs)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.open:
                    self._join(client)
                else:
                    client.close()

    def _join(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._target))
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._guard:
            self._pairs.append((client, server))
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if source not in self._mute:
                    sink.sendall(data)
            if source not in self._mute:
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def relay_to(port: int) -> Iterator[Relay]:
    """A relay to a port of loopback, closed afterwards."""
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.close()
