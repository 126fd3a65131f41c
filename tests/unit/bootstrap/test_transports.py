"""Which transport a setting means for a channel, and what is said of one that means none."""

import sys
from pathlib import Path
from typing import Any

import pytest

from minuet.adapters.broker import BrokerTransport
from minuet.adapters.memory import MemoryTransport
from minuet.adapters.sqlite import SqliteTransport
from minuet.adapters.system import SystemClock, SystemIds
from minuet.bootstrap.extras import extra
from minuet.bootstrap.transports import KINDS, Transports, shown
from minuet.core.errors import ConfigurationError
from minuet.ports import Transport
from minuet.settings import Settings

TOPIC = "arn:aws:sns:us-east-1:123456789012"


def transports(channels: dict[str, str], **settings: Any) -> Transports:
    return Transports(Settings(channels=channels, **settings), SystemClock(), SystemIds())


def refusal(url: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        transports({"*": url}).make(["orders"])
    return str(caught.value)


async def name_of(transport: Transport) -> str:
    """As it names its server to people."""
    with pytest.raises(ConfigurationError, match="has nothing to receive on") as caught:
        await transport.receive("nobody", 1)
    return str(caught.value).removeprefix("group nobody has nothing to receive on ").removesuffix("; declare it first")


def test_every_kind_of_broker_has_a_form_that_is_tried_here() -> None:
    assert {form.partition("://")[0] for form, *_ in FORMS} == set(KINDS)


FORMS = [
    ("kafka://user:s3cret@host:9092,host2:9093/topic", "kafka://host:9092,host2:9093", "topic"),
    ("kafka://host", "kafka://host", "orders"),
    ("kafka://host/all.{channel}?partitions=3&sasl.password=s3cret", "kafka://host", "all.orders"),
    ("amqp://user:s3cret@host:5673/exchange?vhost=/shop", "amqp://host:5673", "exchange/orders"),
    ("amqp://host", "amqp://host", "minuet/orders"),
    ("amqps://user:s3%40cret@host/a/key.{channel}", "amqps://host", "a/key.orders"),
    ("nats://user:s3cret@host:4223/stream", "nats://host:4223/stream", "stream.orders"),
    ("nats://host,host2?token=s3cret", "nats://host,host2/minuet", "minuet.orders"),
    ("nats+tls://host/stream", "nats+tls://host/stream", "stream.orders"),
    (f"sns://{TOPIC}:events", "sns://us-east-1/standard", f"{TOPIC}:events"),
    (f"sns://{TOPIC}:{{channel}}.fifo?endpoint=http://127.0.0.1:1", "sns://us-east-1/fifo", f"{TOPIC}:orders.fifo"),
    ("redis://user:s3cret@host:6380/2?prefix=shop:", "redis://host:6380/2", "shop:orders"),
    ("redis://:s3cret@host", "redis://host/0", "minuet:orders"),
    ("rediss://host/0", "rediss://host/0", "minuet:orders"),
]


@pytest.mark.parametrize(("url", "server", "destination"), FORMS)
async def test_a_url_says_server_and_destination_and_never_its_password(
    url: str, server: str, destination: str
) -> None:
    found = transports({"*": url})
    (transport,) = found.make(["orders"]).values()
    assert isinstance(transport, BrokerTransport)
    assert found.of("orders") is transport
    assert await name_of(transport) == server
    assert list(transport._topology.destinations) == [destination]
    assert "s3cret" not in repr(transport) + repr(found)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("amqp://user:s3cret@host:5672/?vhost=/a@b", "amqp://host:5672"),
        ("amqp://user:s3/cr@et@host:5672/", "amqp://host:5672"),
        ("kafka://host:9092?sasl.password=s3cret", "kafka://host:9092"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_a_servers_name_has_no_user_password_or_options(url: str, name: str) -> None:
    assert shown(url) == name


def test_the_embedded_one_is_in_the_data_folder_and_the_default(tmp_path: Path) -> None:
    found = Transports(Settings(data=tmp_path / "data"), SystemClock(), SystemIds())
    assert [type(one) for one in found.make(["orders", "payment"]).values()] == [SqliteTransport]
    assert found.of("orders") is found.of("payment")


def test_memory_is_one_for_all_channels() -> None:
    found = transports({"*": "memory:"})
    assert [type(one) for one in found.make(["orders", "payment"]).values()] == [MemoryTransport]


def test_each_server_is_connected_once_and_each_stream_for_itself() -> None:
    found = transports(
        {
            "orders*": "nats://host/first",
            "payment": "nats://host/second",
            "stock": "kafka://host/a",
            "bills": "kafka://host/b",
            "*": "memory:",
        }
    )
    made = found.make(["orders", "orders.refused", "payment", "stock", "bills", "else"])
    assert len(made) == 4
    assert found.of("orders") is found.of("orders.refused")
    assert found.of("orders") is not found.of("payment")
    assert found.of("stock") is found.of("bills")
    assert isinstance(found.of("else"), MemoryTransport)


def test_the_first_pattern_that_fits_counts() -> None:
    found = transports({"orders.refused": "memory:", "orders*": "nats://host", "*": "kafka://host"})
    found.make(["orders", "orders.refused", "payment"])
    assert isinstance(found.of("orders.refused"), MemoryTransport)
    assert found.of("orders") is not found.of("payment")


def test_a_pattern_minds_the_case() -> None:
    with pytest.raises(ConfigurationError, match='no entry for Orders; add "\\*" = "embedded:"'):
        transports({"orders": "memory:"}).make(["Orders"])


def test_a_channel_that_was_not_made_is_carried_by_nothing() -> None:
    found = transports({"orders": "memory:", "*": "kafka://host"})
    found.make(["orders"])
    with pytest.raises(ConfigurationError, match="nothing that was started here carries the channel payment"):
        found.of("payment")


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("mqtt://user:s3cret@host", "mqtt"), ("nats+ws://user:s3cret@host", "nats+ws"), ("memory", "memory"), ("", "")],
)
def test_what_is_no_transport_is_told_without_its_password(url: str, scheme: str) -> None:
    assert refusal(url) == (
        f'settings: [channels] orders = "{scheme}:..." is none of embedded:, memory:, kafka://..., amqp://..., '
        "amqps://..., nats://..., nats+tls://..., sns://..., redis://..., rediss://..."
    )


@pytest.mark.parametrize("scheme", list(KINDS))
@pytest.mark.parametrize(
    "rest",
    [
        "user:s3cret@host:no/x",
        "user:s3cret@",
        "user:s3cret@host/0/b/c",
        "user:s3cret@host:1/x?nonsense=s3cret",
        "user:s3%zzcret@host:no",
    ],
)
def test_a_url_that_makes_no_sense_is_told_without_its_password(scheme: str, rest: str) -> None:
    said = refusal(f"{scheme}://{rest}")
    assert "s3" not in said
    assert "cret" not in said


class Without:
    """Finds what another finder finds, but for one package."""

    def __init__(self, package: str, finder: Any) -> None:
        self._package = package
        self._finder = finder

    def find_spec(self, name: str, *where: Any) -> Any:
        return None if name.partition(".")[0] == self._package else self._finder.find_spec(name, *where)


@pytest.mark.parametrize(
    ("url", "client", "name"),
    [
        ("kafka://user:s3cret@host", "confluent_kafka", "kafka"),
        ("amqp://user:s3cret@host", "aiormq", "rabbitmq"),
        ("amqps://user:s3cret@host", "aiormq", "rabbitmq"),
        ("nats://user:s3cret@host", "nats", "nats"),
        ("nats+tls://user:s3cret@host", "nats", "nats"),
        (f"sns://{TOPIC}:x", "aiobotocore", "aws"),
        ("redis://user:s3cret@host", "redis", "redis"),
        ("rediss://user:s3cret@host", "redis", "redis"),
    ],
)
def test_what_it_takes_is_told_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, url: str, client: str, name: str
) -> None:
    adapters = [f"minuet.adapters.{one}" for one in ("kafka", "rabbitmq", "nats", "sns_sqs", "redis_streams")]
    for module in list(sys.modules):
        if module == client or module.startswith((f"{client}.", *adapters)):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Without(client, finder) for finder in sys.meta_path])
    said = refusal(url)
    scheme = url.partition("://")[0]
    usual = f"settings: [channels] orders = {scheme}://... needs {client}, which is not installed: pip install "
    assert said in {f'{usual}"minuet[{name}]"', f"{scheme}:// needs the AWS SDK; install minuet[{name}]"}


@pytest.mark.parametrize("error", [ImportError("no name"), ImportError("ours", name="minuet.adapters.nats.gone")])
def test_an_import_that_fails_through_a_fault_of_ours_is_no_matter_of_what_is_installed(error: ImportError) -> None:
    with pytest.raises(ImportError) as caught, extra("nats", "[channels] orders"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("scheme", [*KINDS, "amqp:user", "carrier-pigeon"])
@pytest.mark.parametrize(
    "rest",
    ["user:s3cret@host", "//user:s3c/ret@host", "//user:s3c?ret@host", "//user:s3c#ret@host", "//user:s3cret@[host/x"],
)
def test_a_mistyped_url_shows_nothing_of_its_password(scheme: str, rest: str) -> None:
    said = refusal(f"{scheme}:{rest}")
    assert not any(part in said for part in ("s3c", "ret@", "user:"))


def test_one_server_has_one_set_of_options() -> None:
    channels = {"a": "redis://h:1/0?hold_s=5", "*": "redis://h:1/0"}
    with pytest.raises(ConfigurationError, match="a and b lie on one server, redis://h:1/0, with different options"):
        transports(channels).make(["a", "b"])
    vhosts = {"a": "amqp://h/x?vhost=one", "*": "amqp://h/x?vhost=two"}
    assert len(transports(vhosts).make(["a", "b"])) == 2
