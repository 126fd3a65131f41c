"""An SNS and SQS endpoint: moto's server, an emulator in one process. It is not AWS, and is slow (10 ms a request).

It runs with some mistakes of its SQS mended, see aws_moto.py.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from dev.servers.base import HOST, NotReady, Server

REGION = "us-east-1"
ACCOUNT = "123456789012"  # the emulator's only one
PROGRAM = Path(__file__).with_name("aws_moto.py")


class Aws(Server):
    """It keeps everything in memory: whoever kills or stops it loses all topics, queues and messages.

    Tests are kept apart by the names of their topics; all are in one account, whatever the access key.

    Attributes:
        survives: whether a restart in the same folder finds what was there.
    """

    name = "aws"
    survives: ClassVar[bool] = False

    @classmethod
    def install(cls) -> None:
        if find_spec("moto") is None:
            raise NotReady("moto is missing; it is a development dependency: run make setup")

    @property
    def url(self) -> str:
        """As it is written in ``minuet.toml``, together with `endpoint` or the variables of `environment`."""
        return f"sns://arn:aws:sns:{REGION}:{ACCOUNT}:{{channel}}?endpoint={self.endpoint}"

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
        }

    def launch(self) -> None:
        self.spawn([sys.executable, PROGRAM, "-H", HOST, "-p", str(self.port)])

    def is_ready(self) -> bool:
        """Whether SQS answers ListQueues; the first request also loads the service's code, which takes seconds."""
        return all(
            self._asks(service, f"Action={action}&Version={version}")
            for service, action, version in (
                ("sqs", "ListQueues", "2012-11-05"),
                ("sns", "ListTopics", "2010-03-31"),
            )
        )

    def _asks(self, service: str, query: str) -> bool:
        signed = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request"  # moto checks no more
        request = urllib.request.Request(self.endpoint, query.encode(), {"Authorization": signed})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status) == 200
