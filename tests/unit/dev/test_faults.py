"""The proxy does to a connection what it says, seen with plain sockets on both sides."""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest

from dev.servers.base import HOST, free_port
from tests.faults import REPLIES, REQUESTS, Direction, FaultProxy

WAIT_S = 20.0
SILENCE_S = 0.3  # after which we believe that nothing comes


class EchoServer:
    """Sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ends: list[str] = []
        self.changed = threading.Condition()
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def await_heard(self, data: bytes) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bytes(self.heard) == data, WAIT_S), bytes(self.heard)

    def await_end(self) -> str:
        with self.changed:
            assert self.changed.wait_for(lambda: self.ends, WAIT_S)
            return self.ends.pop()

    def hang_up(self) -> None:
        for connection in self._open:
            connection.shutdown(socket.SHUT_WR)

    def _spawn(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._spawn(self._echo, connection)

    def _echo(self, connection: socket.socket) -> None:
        end = "closed"
        with connection:
            try:
                while data := connection.recv(65_536):
                    with self.changed:
                        self.heard += data
                        self.changed.notify_all()
                    connection.sendall(data)
            except OSError as error:
                end = "reset" if error.errno in (errno.ECONNRESET, errno.EPIPE) else str(error)
        with self.changed:
            self.ends.append(end)
            self.changed.notify_all()


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with EchoServer() as running:
        yield running


@pytest.fixture
def proxy(server: EchoServer) -> Iterator[FaultProxy]:
    with FaultProxy(HOST, server.port) as running:
        yield running


@contextlib.contextmanager
def connected(proxy: FaultProxy) -> Iterator[socket.socket]:
    with socket.create_connection((proxy.host, proxy.port), timeout=WAIT_S) as client:
        yield client


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    """Connected, and the echo has answered once."""
    with connected(proxy) as made:
        assert echo(made, b"hello ") == b"hello "
        yield made


def echo(client: socket.socket, data: bytes) -> bytes:
    client.sendall(data)
    return exactly(client, len(data))


def exactly(client: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        some = client.recv(size - len(read))
        assert some, f"it ended after {read!r}"
        read += some
    return read


def hears_nothing(client: socket.socket) -> bool:
    client.settimeout(SILENCE_S)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(WAIT_S)
    return False


def is_reset(client: socket.socket) -> bool:
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_passes_everything_both_ways(proxy: FaultProxy, server: EchoServer) -> None:
    big = bytes(range(256)) * 4096
    with connected(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(big,))
        sender.start()
        assert exactly(client, len(big)) == big
        sender.join()
    assert server.await_end() == "closed"
    proxy.await_connections(0)
    assert proxy.seen["requests"] == proxy.seen["replies"] == len(big)
    assert not proxy.seen["resets"]


def test_passes_on_that_one_side_has_finished_while_the_other_goes_on(client: socket.socket) -> None:
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert exactly(client, 4) == b"last"
    assert client.recv(1) == b""


def test_a_reset_by_one_side_reaches_the_other(client: socket.socket, server: EchoServer) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    assert server.await_end() == "reset"


def test_a_target_that_is_down_resets_its_clients() -> None:
    with FaultProxy(HOST, free_port()) as proxy:
        try:
            with connected(proxy) as client:
                assert is_reset(client)
        except ConnectionResetError:  # as quickly as that, now and then
            pass
        assert proxy.seen["unreachable"] == 1


def test_a_black_hole_accepts_and_answers_nothing(proxy: FaultProxy, server: EchoServer, client: socket.socket) -> None:
    proxy.black_hole()
    client.sendall(b"gone")
    with connected(proxy) as late:
        late.sendall(b"gone")
        assert hears_nothing(client)
        assert hears_nothing(late)
        assert proxy.seen["swallowed requests"] == 8
        proxy.heal()
        assert is_reset(client), "a stream with a hole must not go on"
        assert is_reset(late)
    server.await_heard(b"hello ")
    with connected(proxy) as again:
        assert echo(again, b"back") == b"back"


def test_nobody_hears_of_an_end_through_a_black_hole(
    proxy: FaultProxy, server: EchoServer, client: socket.socket
) -> None:
    proxy.black_hole()
    client.close()
    server.hang_up()
    time.sleep(SILENCE_S)
    assert server.ends == []
    proxy.heal()
    assert server.await_end() == "closed"


def test_an_idle_connection_survives_a_black_hole(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.black_hole()
    proxy.heal()
    assert echo(client, b"still here") == b"still here"


def test_lost_replies_belong_to_requests_that_arrived(
    proxy: FaultProxy, server: EchoServer, client: socket.socket
) -> None:
    proxy.lose_replies()
    client.sendall(b"one ")
    server.await_heard(b"hello one ")
    client.sendall(b"two")
    server.await_heard(b"hello one two")
    assert hears_nothing(client)
    proxy.heal()
    assert is_reset(client)
    assert proxy.seen["swallowed replies"] == 7


def test_the_end_of_a_server_is_a_lost_reply_too(proxy: FaultProxy, server: EchoServer, client: socket.socket) -> None:
    proxy.lose_replies()
    server.hang_up()
    assert hears_nothing(client)
    proxy.heal()
    assert client.recv(1) == b""


@pytest.mark.parametrize("dead", Direction)
def test_half_open_holds_one_direction_and_delivers_when_it_is_healed(
    dead: Direction, proxy: FaultProxy, server: EchoServer, client: socket.socket
) -> None:
    proxy.half_open(dead)
    client.sendall(b"later")
    if dead is REPLIES:
        server.await_heard(b"hello later")
    assert hears_nothing(client)
    if dead is REQUESTS:
        server.await_heard(b"hello ")
    proxy.heal()
    assert exactly(client, 5) == b"later"


def test_half_open_lets_the_sender_fill_its_own_buffer(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.half_open(REQUESTS)
    client.settimeout(SILENCE_S)
    with pytest.raises(TimeoutError):
        client.sendall(bytes(64 * 1024 * 1024))


def test_slow_by_latency(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.slow(latency_s=0.2)
    began = time.monotonic()
    assert echo(client, b"ping") == b"ping"
    assert time.monotonic() - began >= 0.4


def test_slow_by_rate(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.slow(bytes_per_s=10_000)
    began = time.monotonic()
    assert echo(client, bytes(4000)) == bytes(4000)
    assert time.monotonic() - began >= 0.3


def test_healing_ends_a_delay_at_once(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.slow(latency_s=3600)
    client.sendall(b"ping")
    assert hears_nothing(client)
    proxy.heal()
    assert exactly(client, 4) == b"ping"


def test_reset_breaks_all_connections_now(proxy: FaultProxy, server: EchoServer, client: socket.socket) -> None:
    with connected(proxy) as other:
        assert echo(other, b"x") == b"x"
        assert proxy.reset() == 2
        assert is_reset(client)
        assert is_reset(other)
    assert server.await_end() == "reset"
    with connected(proxy) as again:
        assert echo(again, b"y") == b"y"


def test_refused_as_if_nobody_listened_while_others_go_on(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), timeout=WAIT_S)
    assert echo(client, b"old") == b"old"
    proxy.heal()
    with connected(proxy) as again:
        assert echo(again, b"new") == b"new"


@pytest.mark.parametrize("after", [0, 1, 5, 9, 10])
def test_a_cut_lets_exactly_so_many_requests_bytes_through(
    after: int, proxy: FaultProxy, server: EchoServer, client: socket.socket
) -> None:
    proxy.cut(after_bytes=after, direction=REQUESTS)
    client.sendall(b"0123456789")
    proxy.await_cut()
    assert server.await_end() == "reset"
    assert bytes(server.heard) == b"hello " + b"0123456789"[:after]
    with pytest.raises(ConnectionResetError):
        exactly(client, 11)
    assert proxy.seen["cuts"] == 1
    with connected(proxy) as again:
        assert echo(again, b"0123456789") == b"0123456789", "it happens once"


def test_a_cut_of_replies_counts_over_several_pieces(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.cut(after_bytes=7, direction=REPLIES)
    assert echo(client, b"abc") == b"abc"
    client.sendall(b"defghi")
    proxy.await_cut()
    assert exactly(client, 4) == b"defg"
    assert is_reset(client)


def test_a_cut_delivers_all_that_it_lets_through_to_a_slow_reader(proxy: FaultProxy) -> None:
    size = 3_000_000
    proxy.cut(after_bytes=size, direction=REPLIES)
    with connected(proxy) as client:
        sender = threading.Thread(target=_send_suppressed, args=(client, bytes(size + 500_000)))
        sender.start()
        assert exactly(client, size) == bytes(size)
        assert is_reset(client)
        sender.join()


def test_healing_disarms_a_cut(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.cut(after_bytes=3, direction=REPLIES)
    proxy.heal()
    assert echo(client, b"abcdef") == b"abcdef"


async def test_commands_work_from_a_coroutine(proxy: FaultProxy, client: socket.socket) -> None:
    proxy.lose_replies()
    proxy.heal()
    assert echo(client, b"x") == b"x"
    assert proxy.connections == 1


def test_it_can_be_closed_in_the_middle_of_everything(server: EchoServer) -> None:
    proxy = FaultProxy(HOST, server.port).start()
    with connected(proxy) as client:
        proxy.half_open(REPLIES)
        client.sendall(b"x")
        server.await_heard(b"x")
        proxy.close()
        assert is_reset(client)
    proxy.close()


def _send_suppressed(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)
