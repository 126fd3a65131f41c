"""A TCP proxy that misbehaves on command: what is between us and a broker or a database, as seen on a bad day.

    with FaultProxy("127.0.0.1", server.port) as proxy:
        client = connect("127.0.0.1", proxy.port)
        proxy.lose_replies()        # the server does what it is asked, and nobody hears of it
        ...
        proxy.heal()

Each command holds from now on, for the connections that there are and for new ones, and replaces the one before; only
`reset` and `cut` are things that happen, and leave the rest as it is. Commands may come from any thread and from
coroutines: the proxy runs in a thread of its own, and a command has taken effect when it returns.

A stream with a hole in it does not exist in TCP. So a connection that has lost bytes is reset, at the latest when the
fault is healed; held bytes instead are delivered then.

`FaultProxy.seen` counts what really happened: a test that expects a fault should look there.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Self, TypeVar

from dev.servers.base import HOST, free_port

T = TypeVar("T")

CHUNK_BYTES = 65_536
CONNECT_S_MAX = 10.0
COMMAND_S_MAX = 30.0
DRAIN_S_MAX = 2.0
SLICE_S = 0.02  # a slow connection carries what this time allows, then pauses for this time


class Direction(Enum):
    REQUESTS = "requests"
    """From the client to the server."""
    REPLIES = "replies"
    """From the server to the client."""

    @property
    def other(self) -> Direction:
        return Direction.REPLIES if self is Direction.REQUESTS else Direction.REQUESTS


REQUESTS, REPLIES = Direction.REQUESTS, Direction.REPLIES


@dataclass(frozen=True, slots=True)
class Flow:
    """What becomes of the bytes of one direction."""

    fate: Literal["pass", "swallow", "hold"] = "pass"
    latency_s: float = 0.0
    bytes_per_s: float | None = None


PASS, SWALLOW, HOLD = Flow(), Flow("swallow"), Flow("hold")


@dataclass(slots=True)
class _Cut:
    """To be done once: a connection ends when it has carried so many bytes in that direction."""

    direction: Direction
    after_bytes: int
    carried: Counter[_Connection] = field(default_factory=Counter)
    is_under_way: bool = False


@dataclass(slots=True, eq=False)
class _Connection:
    client: socket.socket
    server: socket.socket | None = None
    holes: set[Direction] = field(default_factory=set)
    ended: set[Direction] = field(default_factory=set)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def ends(self, direction: Direction) -> tuple[socket.socket, socket.socket]:
        """Where its bytes come from, and where they go."""
        assert self.server is not None
        return (self.client, self.server) if direction is REQUESTS else (self.server, self.client)

    def reset(self) -> None:
        """To both sides, without waiting for what is under way."""
        loop = asyncio.get_running_loop()
        for end in (self.client, self.server):
            if end is not None and end.fileno() >= 0:
                # Now, and not when the tasks notice: by then, the number may be another socket's.
                loop.remove_reader(end)
                loop.remove_writer(end)
                _reset(end)
        for task in self.tasks:
            if task is not asyncio.current_task():
                task.cancel()


class FaultProxy:
    """Listens on a port of 127.0.0.1 and forwards to the target, or does not.

    Attributes:
        port: known at once, and the same for as long as it lives, also while it refuses connections.
        seen: how often: ``accepted``, ``refusals`` (times that it began to refuse), ``resets``, ``cuts`` (connections),
            ``unreachable`` (the target did not accept), ``swallowed requests``, ``swallowed replies`` (bytes),
            ``requests``, ``replies`` (bytes delivered).
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.host = HOST
        self.port = free_port()
        self.seen: Counter[str] = Counter()
        self._target = (target_host, target_port)
        self._flows = {REQUESTS: PASS, REPLIES: PASS}
        self._cut: _Cut | None = None
        self._connections: dict[_Connection, None] = {}  # in the order in which they came
        self._listener: socket.socket | None = None
        self._changed = asyncio.Condition()
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread | None = None

    # -- faults --------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything passes again, and new connections are accepted. A cut that has not happened will not happen."""
        self._set(PASS, PASS, forget_cut=True)

    def black_hole(self) -> None:
        """Connections are accepted, nothing that is sent arrives, and nobody hears of anything, not even of an end."""
        self._set(SWALLOW, SWALLOW)

    def lose_replies(self) -> None:
        """Requests arrive and have their effects; whatever the server says is lost."""
        self._set(PASS, SWALLOW)

    def half_open(self, dead: Direction) -> None:
        """One direction stands still: what is sent there waits, at last in the sender's buffer. The other goes on."""
        self._set(HOLD if dead is REQUESTS else PASS, HOLD if dead is REPLIES else PASS)

    def slow(self, *, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """In both directions each piece that is read waits for the latency, one after the other, and then trickles."""
        flow = Flow(latency_s=latency_s, bytes_per_s=bytes_per_s)
        self._set(flow, flow)

    def refuse(self) -> None:
        """New connections are refused, as if nobody listened. Those that there are go on."""
        self._set(PASS, PASS, listen=False)
        self.seen["refusals"] += 1

    def reset(self) -> int:
        """Break all connections now, with a reset to both sides; how many there were. New ones fare as before."""
        return self._do(self._reset_all)

    def end(self) -> int:
        """Tell the clients of all connections that nothing more comes, as a load balancer does with those that are
        idle; how many there were. The server hears of it when they close. New ones fare as before."""
        return self._do(self._end_all)

    def cut(self, *, after_bytes: int, direction: Direction) -> None:
        """Once: the first connection that has carried so many bytes from now on is reset; not a byte more arrives.

        With 0 bytes it is reset at the first byte that it would have carried. Bytes are counted for each connection.
        Whatever else happens, this stays armed until it has happened, or until `heal`.
        """
        self._do(lambda: self._arm(_Cut(direction, after_bytes)))

    @property
    def connections(self) -> int:
        """How many there are now."""
        return self._do(lambda: len(self._connections))

    def await_cut(self, within_s: float = COMMAND_S_MAX) -> None:
        """Wait until an armed cut has happened.

        Raises:
            TimeoutError: it has not.
        """
        self._await(lambda: self._cut is None, within_s)

    def await_connections(self, count: int, within_s: float = COMMAND_S_MAX) -> None:
        """Wait until there are so many.

        Raises:
            TimeoutError: there are not.
        """
        self._await(lambda: len(self._connections) == count, within_s)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"faults-{self.port}", daemon=True)
        self._thread.start()
        self._do(self._listen)
        return self

    def close(self) -> None:
        """Reset all connections and listen no more."""
        if self._thread is not None:
            self._call(self._shut(), COMMAND_S_MAX)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(COMMAND_S_MAX)
            self._thread = None
            self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FaultProxy({self.port} -> {self._target[1]})"

    # -- commands, carried over into the thread ------------------------------------------------------------------------

    def _do(self, action: Callable[[], T]) -> T:
        async def done() -> T:
            result = action()
            await self._tell()
            return result

        return self._call(done(), COMMAND_S_MAX)

    def _await(self, condition: Callable[[], bool], within_s: float) -> None:
        async def fulfilled() -> None:
            async with self._changed, asyncio.timeout(within_s):
                await self._changed.wait_for(condition)

        self._call(fulfilled(), within_s + COMMAND_S_MAX)

    def _call(self, coroutine: Coroutine[Any, Any, T], within_s: float) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(within_s)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _set(self, requests: Flow, replies: Flow, *, listen: bool = True, forget_cut: bool = False) -> None:
        def change() -> None:
            self._flows = {REQUESTS: requests, REPLIES: replies}
            for connection in list(self._connections):
                if any(self._flows[direction].fate != "swallow" for direction in connection.holes):
                    self._break(connection)
            if forget_cut:
                self._cut = None
            if listen:
                self._listen()
            else:
                self._stop_listening()

        self._do(change)

    def _arm(self, cut: _Cut) -> None:
        self._cut = cut

    def _reset_all(self) -> int:
        broken = list(self._connections)
        for connection in broken:
            self._break(connection)
        return len(broken)

    def _end_all(self) -> int:
        ending = [connection for connection in self._connections if connection.server is not None]
        for connection in ending:
            with contextlib.suppress(OSError):
                connection.client.shutdown(socket.SHUT_WR)
        return len(ending)

    async def _shut(self) -> None:
        self._stop_listening()
        self._reset_all()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # -- connections ---------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self.port))
            listener.listen(128)
            listener.setblocking(False)
            self._listener = listener
            # Not a task that awaits: cancelled at the wrong moment, it would lose the connection that it had accepted.
            self._loop.add_reader(listener, self._accept, listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:  # it has gone again
            return
        client.setblocking(False)
        connection = _Connection(client)
        self._connections[connection] = None
        self.seen["accepted"] += 1
        connection.tasks.append(self._loop.create_task(self._serve(connection)))

    async def _serve(self, connection: _Connection) -> None:
        await self._tell()
        _prepare(connection.client)
        if self._flows[REQUESTS] == SWALLOW:
            # Not even the server hears of it. The client finds out when the fault ends.
            connection.holes.add(REQUESTS)
            await self._swallow_all(connection)
            return
        try:
            connection.server = socket.socket()
            connection.server.setblocking(False)
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._loop.sock_connect(connection.server, self._target)
        except OSError:
            self.seen["unreachable"] += 1
            self._break(connection, counted=False)
            await self._tell()
            return
        _prepare(connection.server)
        connection.tasks += [self._loop.create_task(self._pump(connection, direction)) for direction in Direction]

    async def _swallow_all(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while data := await self._loop.sock_recv(connection.client, CHUNK_BYTES):
                self.seen["swallowed requests"] += len(data)
                await self._tell()

    async def _pump(self, connection: _Connection, direction: Direction) -> None:
        """Carry what one side sends to the other, as the flow of that direction says at each moment."""
        source, _ = connection.ends(direction)
        while True:
            try:
                data = await self._loop.sock_recv(source, CHUNK_BYTES)
            except OSError:
                await self._pass_on(connection, direction, self._break)
                return
            if not data:
                await self._pass_on(connection, direction, lambda ended: self._finish(ended, direction))
                return
            try:
                await self._carry(connection, direction, data)
            except OSError:  # whom the bytes are for is gone
                if self._passes(connection, direction.other):
                    self._break(connection)
                    await self._tell()
                    return
                connection.holes.add(direction)  # the sender must not hear of it, and goes on

    async def _carry(self, connection: _Connection, direction: Direction, data: bytes) -> None:
        delayed = False
        while data:
            flow = self._flows[direction]
            if flow.fate == "swallow" or direction in connection.holes:
                connection.holes.add(direction)
                self.seen[f"swallowed {direction.value}"] += len(data)
                data = b""
                await self._tell()
            elif flow.fate == "hold":
                await self._until_another(direction, flow)
            elif flow.latency_s and not delayed:
                delayed = True
                await self._until_another(direction, flow, flow.latency_s)
            else:
                data = await self._forward(connection, direction, data, flow)

    async def _forward(self, connection: _Connection, direction: Direction, data: bytes, flow: Flow) -> bytes:
        """Deliver what may be delivered now; what is left."""
        _, destination = connection.ends(direction)
        piece = data if flow.bytes_per_s is None else data[: max(1, round(flow.bytes_per_s * SLICE_S))]
        cut = self._cut
        if cut and cut.direction is direction and not cut.is_under_way:
            left = cut.after_bytes - cut.carried[connection]
            if len(piece) >= left:
                cut.is_under_way = True
                await self._send(destination, direction, piece[:left])
                await _drained(destination)
                self.seen["cuts"] += 1
                self._cut = None
                self._break(connection)
                await self._tell()
                return b""
            cut.carried[connection] += len(piece)
        await self._send(destination, direction, piece)
        if flow.bytes_per_s is not None:
            await self._until_another(direction, flow, len(piece) / flow.bytes_per_s)
        return data[len(piece) :]

    async def _send(self, destination: socket.socket, direction: Direction, data: bytes) -> None:
        await self._loop.sock_sendall(destination, data)
        self.seen[direction.value] += len(data)

    def _passes(self, connection: _Connection, direction: Direction) -> bool:
        return self._flows[direction].fate == "pass" and direction not in connection.holes

    async def _pass_on(self, connection: _Connection, direction: Direction, act: Callable[[_Connection], None]) -> None:
        """Tell the other side that this one has ended, as soon as anything passes there."""
        while not self._passes(connection, direction):
            if direction in connection.holes:
                return  # it is broken when the fault ends
            await self._until_another(direction, self._flows[direction])
        act(connection)
        await self._tell()

    async def _until_another(self, direction: Direction, flow: Flow, within_s: float | None = None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._changed:
                await self._changed.wait_for(lambda: self._flows[direction] is not flow)

    def _finish(self, connection: _Connection, direction: Direction) -> None:
        _, destination = connection.ends(direction)
        with contextlib.suppress(OSError):
            destination.shutdown(socket.SHUT_WR)
        connection.ended.add(direction)
        if connection.ended == set(Direction):
            for end in connection.ends(direction):
                end.close()
            self._connections.pop(connection, None)

    def _break(self, connection: _Connection, *, counted: bool = True) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self.seen["resets"] += counted
            connection.reset()


async def _drained(end: socket.socket) -> None:
    """Until the other side's kernel has all that was sent: a reset throws away what is still on its way."""
    loop = asyncio.get_running_loop()
    gives_up_at = loop.time() + DRAIN_S_MAX
    while loop.time() < gives_up_at:
        (left,) = struct.unpack("i", fcntl.ioctl(end, termios.TIOCOUTQ, b"\0" * 4))
        if not left:
            return
        await asyncio.sleep(0.001)


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _reset(end: socket.socket) -> None:
    """Close it such that the other side gets a reset."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
