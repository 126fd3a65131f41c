"""Apache Kafka, one broker that is its own controller (KRaft), from its Maven artifacts.

python -m dev.servers.kafka FOLDER        runs one until it is interrupted, and prints its address
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from dev.servers import debian
from dev.servers.base import HOST, Server, free_port

VERSIONS = ("4.3.1", "4.1.1")  # the first that can be had
POM = Path(__file__).with_name("kafka.pom.xml")
INSTALL_S_MAX = 600
CLUSTER = "bWludWV0LWRldi1rYWZrYQ"  # any 16 bytes, in base64
PASSWORD = "kept-out-of-every-log"
"""Of the user ``minuet`` at the secured listener, and of the key store."""

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller}
listeners={listeners}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
log.dirs={folder}/logs
auto.create.topics.enable=false
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=4194304
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=3000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=500
"""
# Sessions and heartbeats are short: tests see members come and go in seconds, and the controller lets a broker that was
# killed register again only when its last session is over.

SECURED = """\
sasl.enabled.mechanisms=PLAIN
ssl.keystore.type=PKCS12
ssl.keystore.location={folder}/broker.p12
ssl.keystore.password={password}
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
user_minuet="{password}";
"""

LOGGING = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %m (%c)%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
"""

JVM = (
    "-Xms64m",
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)


class Kafka(Server):
    """One broker.

    Args:
        secured: with a second listener for TLS and SASL, `secured_port`, for the user ``minuet`` with `PASSWORD`; its
            certificate authority is in ``ca.pem`` in the folder.
    """

    name = "kafka"

    def __init__(self, folder: Path, *, secured: bool = False) -> None:
        super().__init__(folder)
        self._controller_port = free_port()
        self.secured_port = free_port() if secured else None

    @classmethod
    def install(cls) -> None:
        # kcat is for the tests: a client that is not ours.
        packages = {"java": "openjdk-17-jre-headless", "mvn": "maven", "kcat": "kcat"}
        missing = [package for program, package in packages.items() if shutil.which(program) is None]
        if missing:
            debian.install(*missing)
        libs()

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return {"KAFKA_URL": self.url}

    def launch(self) -> None:
        settings = self._write_settings()
        java = ["java", *JVM, f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}", "-cp", f"{libs()}/*"]
        if not (self.folder / "logs" / "meta.properties").exists():
            with self.log.open("ab") as log:
                subprocess.run(
                    [*java, "kafka.tools.StorageTool", "format", "--standalone", "-t", CLUSTER, "-c", settings],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=True,
                )
        self.spawn([*java, "kafka.Kafka", settings])

    def is_ready(self) -> bool:
        here = {"bootstrap.servers": f"{HOST}:{self.port}", "log_level": 0}
        try:
            if not AdminClient(here).list_topics(timeout=2).brokers:
                return False
            # The first who asks for a group has the server make the topic that keeps them, which takes seconds.
            consumer = Consumer({**here, "group.id": "is-it-ready"})
            try:
                consumer.committed([TopicPartition("nothing", 0)], timeout=2)
            finally:
                consumer.close()
        except KafkaException:
            return False
        return True

    def _write_settings(self) -> Path:
        listeners = f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}"
        text = PROPERTIES
        if self.secured_port:
            listeners += f",SASL_SSL://{HOST}:{self.secured_port}"
            text += SECURED
            self._make_certificate()
        (self.folder / "log4j2.properties").write_text(LOGGING)
        settings = self.folder / "server.properties"
        settings.write_text(
            text.format(
                host=HOST,
                controller=self._controller_port,
                listeners=listeners,
                folder=self.folder,
                password=PASSWORD,
            )
        )
        return settings

    def _make_certificate(self) -> None:
        store = self.folder / "broker.p12"
        if store.exists():
            return
        common = ["-keystore", str(store), "-storepass", PASSWORD, "-alias", "broker"]
        names = ["-dname", "CN=localhost", "-ext", f"san=ip:{HOST},dns:localhost", "-ext", "bc=ca:true"]
        kind = ["-keyalg", "EC", "-validity", "3650", "-storetype", "PKCS12"]
        export = ["-rfc", "-file", str(self.folder / "ca.pem")]
        subprocess.run(["keytool", "-genkeypair", *common, *kind, *names], capture_output=True, check=True)
        subprocess.run(["keytool", "-exportcert", *common, *export], capture_output=True, check=True)


def libs() -> Path:
    """The folder with the broker's archives, fetched the first time. Several processes may ask at once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minuet-dev"
    for version in VERSIONS:
        if (found := cache / f"kafka-{version}" / "libs").is_dir():
            return found
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "kafka.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Maven's own cache does not bear two writers
        said = ""
        for version in VERSIONS:
            target = cache / f"kafka-{version}" / "libs"
            if target.is_dir():  # by whom we waited for
                return target
            said = _fetch(version, target)
            if not said:
                return target
    raise RuntimeError(f"Kafka cannot be fetched with mvn:\n{said[-2000:]}")


def _fetch(version: str, target: Path) -> str:
    """What Maven said if it failed. The folder appears whole or not at all."""
    halfway = target.with_name("libs.halfway")
    shutil.rmtree(halfway, ignore_errors=True)
    halfway.parent.mkdir(parents=True, exist_ok=True)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={halfway}"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", POM, f"-Dkafka={version}", *goal],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_S_MAX,
        check=False,
    )
    if done.returncode:
        return done.stdout + done.stderr
    halfway.rename(target)
    return ""


if __name__ == "__main__":
    Kafka.install()
    with Kafka(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        server.processes[0].wait()
