"""What somebody can try who means harm: addresses, names that are commands elsewhere, secrets, bodies, floods.

There is no console, no token and no role yet: what that means for a deployment is in docs/failures.md, 62 to 70.
"""

from __future__ import annotations

import ast
import asyncio
import io
import json
import logging
import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from minuet import App, Command, Event, RetryPolicy, Service, Settings, System, running
from minuet.app import Database
from minuet.bootstrap import stored
from minuet.cli.loading import remember_app
from minuet.cli.main import app as minuet_cli
from minuet.cli.run import LOG_LINE, Lines
from minuet.codec import BODY_BYTES_MAX, Codec, attributes_of
from minuet.core.envelope import Envelope
from minuet.core.errors import ConfigurationError, MessageError
from minuet.ports import Delivery, Outgoing
from minuet.runtime import place as place_module
from tests.failures.programs import minuet, program
from tests.failures.shop import at_work, effects, ended, order_app, place
from tests.unit.cli import tiny
from tests.unit.cli.conftest import perform

SOURCES = Path(__file__).parents[2] / "src"
EMBEDDED = {"*": "embedded:"}

# -- a small service with an address -----------------------------------------------------------------------------------


class Kept(Event, channel="kept"):
    name: str
    number: float = 0.0


class Keep(Command, service="keeper", answers=(Kept,), http="POST /names", key="name"):
    name: str
    number: float = 0.0


def keeper_app(*, fails: bool = False) -> App:
    keeper = Service("keeper", schema="CREATE TABLE IF NOT EXISTS names (name TEXT NOT NULL)")

    @keeper.handles(Keep, retry=RetryPolicy(attempts_max=1))
    def keep(command: Keep, database: Database) -> Kept:
        database.execute("INSERT INTO names (name) VALUES (:name)", name=command.name)
        if fails:
            return Kept(name=command.name, number=command.name)  # type: ignore[arg-type]
        return Kept(name=command.name, number=command.number)

    return App("keeper", services=[keeper])


@asynccontextmanager
async def serving(data: Path, app: App | None = None) -> AsyncIterator[tuple[System, aiohttp.ClientSession]]:
    async with (
        running(app or keeper_app(), Settings(data=data, port=0, grace_s=5.0), serve=True) as system,
        aiohttp.ClientSession(system.url) as http,
    ):
        yield system, http


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged, as `minuet run` writes it, and more of it."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(Lines(LOG_LINE))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(before)


# 62


async def test_62_without_a_word_nobody_but_this_machine_can_ask(tmp_path: Path) -> None:
    """It asks nobody who he is, so it must not be reached by who should not ask."""
    async with running(keeper_app(), Settings(data=tmp_path, port=0), serve=True) as system:
        assert system.url is not None
        port = int(system.url.rpartition(":")[2])
        listening = [address for address, its_port in listeners() if its_port == port]
        assert listening == ["127.0.0.1"]


def listeners() -> list[tuple[str, int]]:
    """Every address and port of this network namespace where somebody listens."""
    found = []
    for table, size in (("/proc/net/tcp", 4), ("/proc/net/tcp6", 16)):
        for line in Path(table).read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, _, port = local.partition(":")
                words = [bytes.fromhex(address[n : n + 8])[::-1] for n in range(0, len(address), 8)]
                family = socket.AF_INET if size == 4 else socket.AF_INET6
                found.append((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


# 63


async def test_63_a_command_on_the_bus_is_not_done(tmp_path: Path) -> None:
    """What may be said there is what happened, not what shall be done. A transport that filters delivers a forged
    command to nobody; from one that does not, it is parked, with the reason."""
    async with at_work(order_app(), EMBEDDED, tmp_path) as system:
        (transport,) = system.transports.values()
        forged = {"billing": ("Pay", "Refund"), "stock": ("Reserve", "Release"), "shipping": ("Ship",)}
        for service, kinds in forged.items():
            for kind in kinds:
                one = Envelope(id=f"forged-{kind}", type=kind, source="stranger", time=1.0, body=b'{"orderId": "o1"}')
                for channel in ("orders", "stock", "billing"):
                    assert list(await transport.publish([Outgoing(0, channel, one)])) == [None]
                unfiltered = Delivery("orders", attributes_of(one), one.body, 1, None)
                assert list(await system.places[service].take_in([unfiltered])) == [None]
        await place(system, "o2")
        assert await ended(system, "o2") == {"o2": "completed"}
        parked = await system.observer.parked()
        assert {one.type for one in parked} == {kind for kinds in forged.values() for kind in kinds}
        assert all("over HTTP" in one.reason for one in parked)
        done = [one for name in forged for one in await effects(system, name)]
        assert {name for _, name in done} == {"o2"}


# 65


async def test_65_nobody_is_asked_because_a_message_says_so(tmp_path: Path) -> None:
    """Addresses come from the settings and from the data folder. One in a body, a header or an attribute is a text."""
    asked: list[str] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode())
        writer.close()

    trap = await asyncio.start_server(hear, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{trap.sockets[0].getsockname()[1]}/latest/meta-data"
    headers = {"ce-id": "1", "ce-type": "Keep", "ce-source": url, "ce-time": "2026-01-31T12:00:00Z"}
    headers |= {"ce-dataschema": url, "ce-subject": url, "ce-replyto": url, "Location": url, "Link": f"<{url}>"}
    async with trap, serving(tmp_path) as (system, http):
        async with http.post("/names", json={"name": url}, headers=headers) as reply:
            assert reply.status == 200, await reply.text()
        (transport,) = system.transports.values()
        event = Envelope(
            id="2", type="Kept", source=url, time=1.0, body=json.dumps({"name": url, "$ref": url}).encode()
        )
        assert list(await transport.publish([Outgoing(0, "kept", event)])) == [None]
        await system.drained()
    assert asked == []


# 66

NASTY = [
    "'; DROP TABLE names; --",
    '"; DELETE FROM minuet_inbox; --',
    "') ON CONFLICT DO NOTHING; --",
    ":name",
    "%s %d {name} {0} ${jndi:ldap://x}",
    "\x1b]0;owned\x07\x1b[31mred\x1b[2J",
    "a\r\n2026-01-31 12:00:00,000 ERROR minuet.place: forged",
    "\x9b2J\u202etxt.exe\u2066",
    "[bold red]markup[/]",
    "[/not-open]",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "x" * 5000,
]
"""Names that are commands somewhere else."""
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("nasty", NASTY)
async def test_66_a_name_is_a_value_in_the_database_whatever_it_says(tmp_path: Path, nasty: str) -> None:
    async with serving(tmp_path) as (system, http):
        async with http.post("/names", json={"name": nasty}) as reply:
            assert reply.status == 200, await reply.text()
            assert (await reply.json())["name"] == nasty
        await system.drained()
    with closing(sqlite3.connect(tmp_path / "keeper.db")) as database:
        assert database.execute("SELECT name FROM names").fetchall() == [(nasty,)]
        assert database.execute("SELECT key FROM minuet_inbox").fetchall()
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def stuck(tmp_path: Path, logged: io.StringIO) -> Iterator[tuple[Path, list[str]]]:
    """A folder in which sagas, commands and messages with nasty names are parked; and their ids."""

    async def work() -> list[str]:
        async with running(tiny.app, Settings(data=tmp_path)) as system:
            for name in NASTY:
                tiny.broken.add(name)
                await system.send(tiny.Wish(wish_id=name, text=name))
            (transport,) = system.transports.values()
            wrong = [
                Envelope(id=f"g{name}"[:2000], type=f"T{name}"[:2000], source=name[:2000], time=1.0, body=name.encode())
                for name in NASTY
            ]
            await transport.publish([Outgoing(0, "wishes", one) for one in wrong])
            async with asyncio.timeout(20):
                while len(parked := await system.observer.parked()) < 4 * len(NASTY):
                    await asyncio.sleep(0.02)
            return [one.id for one in parked]

    ids = asyncio.run(work())
    remember_app(tmp_path, tiny.APP)
    yield tmp_path, ids
    tiny.broken.clear()
    tiny.printed.clear()


@pytest.mark.slow
def test_66_a_terminal_shows_names_and_obeys_none(stuck: tuple[Path, list[str]], logged: io.StringIO) -> None:
    """Nor does the log: only a record begins a line there."""
    data, ids = stuck
    log_line = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+: |  |$")
    lines = logged.getvalue().split("\n")
    assert len(lines) > len(NASTY)
    assert [line for line in lines if not log_line.match(line)] == []
    assert not [line for line in lines if " minuet.place: forged" in line and not line.startswith("  ")
                and "\\n" not in line]  # fmt: skip
    assert not OBEYED.findall(logged.getvalue())

    def shown(*arguments: str) -> str:
        verb, rest = arguments[:2], arguments[2:]
        done = CliRunner().invoke(minuet_cli, [*verb, "--data", str(data), *rest])
        assert done.exit_code == 0, (arguments, done.output)
        return done.stdout + done.stderr

    for arguments in (("sagas", "list", "--limit", "100"), ("parked", "list")):
        said = shown(*arguments)
        assert not OBEYED.findall(said), arguments
        assert "owned" in said
        as_json = shown(*arguments, "--json")
        assert not OBEYED.findall(as_json), arguments
        assert json.loads(as_json)
    found = {one["id"] for one in json.loads(shown("sagas", "list", "--limit", "100", "--json"))["sagas"]}
    assert found == set(NASTY), "in JSON every name is whole"
    for name in NASTY:
        assert not OBEYED.findall(shown("sagas", "show", "--", name)), name
    for one in ids:
        assert not OBEYED.findall(shown("parked", "show", "--", one)), one
    message = next(one for one in ids if "owned" in one and one.startswith("press:"))
    assert not OBEYED.findall(shown("parked", "discard", "--yes", "--", message))


# 67

CANARY = "canary-4f6d1b"


async def test_67_what_was_sent_is_not_told_in_errors_or_logs(tmp_path: Path, logged: io.StringIO) -> None:
    """Neither when it does not fit, nor when a handler fails over it, nor when nobody understands it."""
    said = []
    async with serving(tmp_path, keeper_app(fails=True)) as (system, http):
        for body in (
            {"name": [CANARY]},
            {"name": "a", CANARY: 1},
            {"name": "a", "number": CANARY},
            {"name": CANARY},  # it fits, and then the handler's own event does not
        ):
            async with http.post("/names", json=body) as reply:
                assert reply.status in (422, 503), await reply.text()
                text = await reply.text()
                said.append(text if CANARY not in body else text.replace(CANARY, "the field's own name"))
        async with http.post("/names", data=CANARY.encode(), headers={"Content-Type": "application/json"}) as reply:
            said.append(await reply.text())
        (transport,) = system.transports.values()
        for number, body in enumerate((CANARY.encode(), json.dumps({"name": [CANARY]}).encode())):
            wrong = Envelope(id=f"w{number}", type="Keep", source="stranger", time=1.0, body=body)
            await transport.publish([Outgoing(0, "kept", wrong)])
        parked = [one.reason for one in await system.observer.parked()]
        assert parked
    key = f"Keep/{CANARY}"  # what it is known by is told: it is how an operator finds it
    told = "\n".join([*said, *parked, logged.getvalue()]).replace(key, "its key")
    assert "ValidationError" in told
    assert CANARY not in told


SECRET_URLS = {
    "stores": [f"postgresql://user:{CANARY}@127.0.0.1:1/db", f"postgresql://user:{CANARY}@@127.0.0.1:1/db"],
    "channels": [
        f"{scheme}://user:{CANARY}@127.0.0.1:1/place" for scheme in ("kafka", "amqp", "nats", "redis", "rabbitmq")
    ],
}


@pytest.mark.acceptance
@pytest.mark.slow
async def test_67_a_password_in_a_setting_is_not_told_by_a_process_that_cannot_start(tmp_path: Path) -> None:
    """Real processes, with every word that they say while they look for servers that are not there."""
    urls = [(setting, url) for setting, urls in SECRET_URLS.items() for url in urls]
    with ExitStack() as stack:
        processes = {}
        for number, (setting, url) in enumerate(urls):
            environment = {f"MINUET_{setting.upper()}": json.dumps({"default" if setting == "stores" else "*": url})}
            data = tmp_path / str(number)
            processes[url] = stack.enter_context(
                program("tests.failures.upgrade:before", data, environment=environment)
            )
        patient_until = time.monotonic() + 12
        for process in processes.values():
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.popen.wait, max(0.0, patient_until - time.monotonic()))
        for url, process in processes.items():
            assert process.said(), f"{url}: it neither ended nor said anything"
            assert CANARY not in process.said(), url
            assert process.popen.poll() != 0, url
    assert CANARY not in " ".join(file.name for file in tmp_path.rglob("*"))


async def test_67_a_setting_of_the_app_is_not_told_when_another_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "minuet.toml").write_text(f'port = "many"\n[app]\napi_token = "{CANARY}"\n')
    with pytest.raises(ConfigurationError, match="port") as error:
        Settings.load(tmp_path / "minuet.toml")
    assert CANARY not in f"{error.value!r}{error.value.__cause__!r}"


# 68

DEEP = b"[" * 100_000 + b"]" * 100_000
WRONG = {
    "a list 100,000 deep": DEEP,
    "a field 100,000 deep": b'{"name": ' + DEEP + b"}",
    "objects 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not a number": b'{"name": "a", "number": NaN}',
    "infinity": b'{"name": "a", "number": Infinity}',
    "minus infinity": b'{"name": "a", "number": -Infinity}',
    "beyond a double": b'{"name": "a", "number": 1e999}',
    "a number of 100,000 digits": b'{"name": "a", "number": ' + b"9" * 100_000 + b"}",
    "pickled": b"\x80\x04\x95\x1d\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "yaml": b"!!python/object/apply:os.system ['true']",
    "packed": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + b"\x00" * 100,
    "not UTF-8": b'{"name": "\xff"}',
    "half a pair": b'{"name": "\\ud800"}',
}
QUICKLY_S = 2.0


@pytest.mark.parametrize("kind", WRONG)
async def test_68_a_body_that_is_meant_to_break_its_reader_is_refused_and_soon(tmp_path: Path, kind: str) -> None:
    """Over HTTP and from a broker; the next one is served."""
    codec = Codec(keeper_app().messages())
    began = time.monotonic()
    attributes = {"type": "Kept", "id": "1", "source": "stranger"}
    with pytest.raises(MessageError):
        codec.decode(codec.envelope_of(attributes, WRONG[kind], channel="kept", now=1.0))
    async with serving(tmp_path) as (_, http):
        as_json = {"Content-Type": "application/json"}
        async with http.post("/names", data=WRONG[kind], headers=as_json) as reply:
            assert reply.status == 422, await reply.text()
            assert len(await reply.text()) < 5000
        async with http.post("/names", data=WRONG[kind], headers={**as_json, "Content-Encoding": "gzip"}) as reply:
            assert reply.status == 415
        async with http.post("/names", json={"name": "next"}) as reply:
            assert reply.status == 200
    assert time.monotonic() - began < 5 * QUICKLY_S


def test_68_nothing_here_unpacks_or_runs_what_it_reads() -> None:
    """No pickle, no yaml, no eval, no decompression in what is shipped."""
    modules = {"pickle", "marshal", "shelve", "yaml", "zipfile", "tarfile", "gzip", "bz2", "lzma", "dill"}
    unpacking = {"decompress", "decompressobj", "unpackb"}
    calls = {"eval", "exec", "compile", "__import__"}
    found = []
    for file in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found += [f"{file.name}: {name}" for name in names if name.partition(".")[0] in modules]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls:
                found.append(f"{file.name}: {node.func.id}()")
            if isinstance(node, ast.Attribute) and node.attr in unpacking:
                found.append(f"{file.name}: {node.attr}")
    assert found == []


# 69


async def test_69_headers_parameters_and_bodies_have_a_limit(tmp_path: Path) -> None:
    async with serving(tmp_path) as (system, http):
        assert system.url is not None
        many = "&".join(f"p{number}=1" for number in range(100_000))
        assert await status_of(system.url, f"GET /health?{many} HTTP/1.1\r\nHost: x\r\n\r\n") in (400, 414, 431)
        huge = "x" * 10_000_000
        assert await status_of(system.url, f"GET /health HTTP/1.1\r\nHost: x\r\nX-Huge: {huge}\r\n\r\n") in (400, 431)
        endless = "".join(f"X-{number}: 1\r\n" for number in range(100_000))
        assert await status_of(system.url, f"GET /health HTTP/1.1\r\nHost: x\r\n{endless}\r\n") in (400, 431)
        async with http.post(
            "/names", data=io.BytesIO(b" " * (BODY_BYTES_MAX + 1)), headers={"Content-Type": "application/json"}
        ) as r:
            assert r.status == 413
        async with http.get("/health") as reply:
            assert reply.status == 200


async def status_of(url: str, request: str) -> int:
    """Of the answer; 431 if the server hangs up while it is still being sent."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request.encode())
        async with asyncio.timeout(20):
            try:
                await writer.drain()
                line = await reader.readline()
            except ConnectionError:
                return 431
        return int(line.split()[1]) if line else 431
    finally:
        writer.close()


RUNS = st.sampled_from([" ", "\t", ";", ",", '"', "=", "a", "0", "%", "\\", "wait", "charset", "utf-8", "-"])
HEADERS = ["Content-Type", "Prefer", "Idempotency-Key", "traceparent", "ce-id", "ce-time", "ce-sagabegins", "Accept"]


async def test_69_no_header_takes_long_to_read(tmp_path: Path) -> None:
    """60,000 characters of each, in every kind that a pattern could be slow about, each within a second."""
    async with serving(tmp_path) as (_, http):
        slow = {}
        for name in HEADERS:
            begin = "application/json" if name == "Content-Type" else "respond-async, wait" if name == "Prefer" else "a"
            for run in (" ", ";", "; ", ",", ", ", '"', "=", "%", "\\", "0", ' ;charset="utf-8" '):
                value = f"{begin}{run * (60_000 // len(run))}x"
                began = time.monotonic()
                async with http.post(
                    "/names", data=b"{}", headers={"Content-Type": "application/json", name: value}
                ) as reply:
                    assert reply.status < 500, await reply.text()
                taken = time.monotonic() - began
                if taken > 1.0:
                    slow[name, run] = round(taken, 2)
        assert not slow


@given(parts=st.lists(st.tuples(RUNS, st.integers(1, 2000)), min_size=1, max_size=6))
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_69_no_pattern_of_the_door_is_slow(parts: list[tuple[str, int]]) -> None:
    from minuet.codec_http import value_of, wait_s_of
    from minuet.doors.endpoints import check_content_type
    from minuet.doors.routing import Problem

    text = "".join(part * count for part, count in parts)
    for read in (wait_s_of, value_of, lambda value: check_content_type({"content-type": "application/json" + value})):
        began = time.perf_counter()
        with suppress(ValueError, Problem):
            read(text)
        assert time.perf_counter() - began < 0.5, parts


async def test_69_a_flood_is_told_to_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way is bounded, and who comes beyond it hears 503 and when to ask again; then all goes on."""
    monkeypatch.setattr(place_module, "DUE_MAX", 5)
    go_on = asyncio.Event()
    slow = Service("keeper")

    @slow.handles(Keep)
    async def keep(command: Keep) -> Kept:
        await go_on.wait()
        return Kept(name=command.name)

    async with serving(tmp_path, App("slow", services=[slow])) as (system, http):

        async def post(number: int) -> tuple[int, str | None]:
            async with http.post("/names", json={"name": f"n{number}"}, headers={"Prefer": "wait=20"}) as reply:
                return reply.status, reply.headers.get("retry-after")

        first = [asyncio.create_task(post(number)) for number in range(5)]
        async with asyncio.timeout(20):
            while not system.places["keeper"].is_full:
                await asyncio.sleep(0.01)
        assert await asyncio.gather(*map(post, range(5, 25))) == [(503, "2")] * 20
        go_on.set()
        assert await asyncio.gather(*first) == [(200, None)] * 5
        assert (await post(30))[0] == 200


# 70


@pytest.mark.acceptance
@pytest.mark.slow
async def test_70_an_operator_who_presses_twice_in_two_terminals_has_pressed_once(tmp_path: Path) -> None:
    """Real processes; eight of them at the same instant. One is told that it is done, the others that it was."""
    data = tmp_path / "data"
    tiny.broken.add("w")
    await asyncio.to_thread(perform, data, ("w", "peace"))
    tiny.broken.clear()
    remember_app(data, tiny.APP)
    presses = [minuet("parked", "retry", "people:Thank/w", "--data", data) for _ in range(8)]
    ends = [(await asyncio.to_thread(press.communicate), press.wait()) for press in presses]
    assert sorted(code for _, code in ends) == [0] + [1] * 7, ends
    assert {said for (said, _), code in ends if code == 0} == {
        "Thank is due again; people takes it up as soon as it runs\n"
    }
    assert all("nothing is parked as 'people:Thank/w'" in said for (_, said), code in ends if code == 1), ends
    await asyncio.to_thread(perform, data, until="w")
    late = minuet("parked", "retry", "people:Thank/w", "--data", data)
    assert "nothing is parked" in (await asyncio.to_thread(late.communicate))[1]


async def test_70_presses_of_those_who_saw_it_parked_at_the_same_instant_count_once(tmp_path: Path) -> None:
    tiny.broken.add("w")
    await asyncio.to_thread(perform, tmp_path, ("w", "peace"))
    tiny.broken.clear()
    async with stored(tiny.app, Settings(data=tmp_path)) as one, stored(tiny.app, Settings(data=tmp_path)) as other:
        presses = [who.reopen("people:Thank/w") for who in (one, other) for _ in range(4)]
        assert sorted(await asyncio.gather(*presses)) == [False] * 7 + [True]


async def test_70_asking_again_is_no_second_operation(tmp_path: Path) -> None:
    async with at_work(order_app(), EMBEDDED, tmp_path) as system:
        await place(system, "o1", "o1", "o1")
        assert await ended(system, "o1") == {"o1": "completed"}
        assert [what for what, _ in await effects(system, "orders")].count("Place") == 1
