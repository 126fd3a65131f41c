"""The connection to Temporal: starts workflows and signals them, and is a worker for both workflows and activities.

A server that is away is waited for: what has to be told to it is kept in our own store until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode, TLSConfig
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from minuet.adapters.temporal import definitions
from minuet.adapters.temporal.activities import Activities, Asking
from minuet.adapters.temporal.address import API_KEY, WHERE, Address
from minuet.adapters.temporal.logs import runtime
from minuet.adapters.temporal.values import Begun, Name, Told, workflow_id
from minuet.adapters.temporal.workflow import SagaWorkflow
from minuet.core.errors import ConfigurationError, MessageError, NotYet
from minuet.core.retry import RetryPolicy
from minuet.core.saga import Saga

log = logging.getLogger("minuet.temporal")

AGAIN_S = 1.0
CONNECT_S = 5.0
WORKFLOWS_CACHED_MAX = 1000
BACKOFF = RetryPolicy(first_s=0.2, delay_max_s=5.0)
NEVER = {RPCStatusCode.INVALID_ARGUMENT}
MISCONFIGURED = {RPCStatusCode.NOT_FOUND, RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED}
PASSED_THROUGH = ("minuet.core", "pydantic", "pydantic_core", "annotated_types", "typing_extensions")
"""Loaded once, not for each workflow. Nothing of it does anything but compute."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the environment says, and no setting."""

    api_key: str | None = field(default=None, repr=False)


class TemporalEngine:
    """Temporal for the sagas of one app.

    Args:
        task_queue: shared by all processes that run this app.
        grace_s: how long a stop waits for participants that are being asked.
    """

    def __init__(
        self,
        address: Address,
        secrets: Secrets,
        sagas: Iterable[Saga],
        asking: Asking,
        *,
        task_queue: str,
        grace_s: float,
    ) -> None:
        self.address = address
        self.task_queue = task_queue
        self._secrets = secrets
        self._sagas = tuple(sagas)
        self._activities = Activities(asking)
        self._grace_s = grace_s
        self._client: Client | None = None
        self._working: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    # -- telling -------------------------------------------------------------------------------------------------------

    async def tell(self, begun: Begun, told: Told) -> None:
        """Let the saga's workflow hear the message, and start it if there is none. Doing it again does nothing.

        Raises:
            NotYet: Temporal cannot be reached.
            MessageError: it never takes this.
        """
        client = self._connected()
        try:
            await client.start_workflow(
                Name.WORKFLOW,
                begun,
                id=workflow_id(begun.saga, begun.id),
                task_queue=self.task_queue,
                # One that runs hears it; one that has ended needs to hear nothing, and is not begun again.
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                start_signal=Name.HEAR,
                start_signal_args=[told],
                rpc_timeout=timedelta(seconds=CONNECT_S),
            )
        except WorkflowAlreadyStartedError:
            return
        except RPCError as error:
            raise self._in_words(error) from error

    async def retry(self, saga: str, saga_id: str, step: str) -> None:
        """An operator says that the step can go on.

        Raises:
            NotYet: Temporal cannot be reached.
        """
        handle = self._connected().get_workflow_handle(workflow_id(saga, saga_id))
        try:
            await handle.signal(Name.RETRY, step, rpc_timeout=timedelta(seconds=CONNECT_S))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # it has ended
                raise self._in_words(error) from error

    def _connected(self) -> Client:
        if self._client is None:
            raise NotYet(f"{self.address.name} is not connected", retry_after_s=AGAIN_S)
        return self._client

    def _in_words(self, error: RPCError) -> NotYet | MessageError:
        what = f"{self.address.name}: {error.status.name}: {error.message}"
        return MessageError(what) if error.status in NEVER else NotYet(what, retry_after_s=AGAIN_S)

    # -- working -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect and work. A server that cannot be reached is waited for, and what is to be told waits with us.

        Raises:
            ConfigurationError: the server answers, and says that something is wrong with us.
        """
        definitions.know(self._sagas)
        try:
            await self._connect()
        except RPCError as error:
            self._check(error)
        except RuntimeError as error:  # as the SDK says that nobody answers
            log.warning("%s cannot be reached, trying again: %s", self.address.name, error)
        self._working = asyncio.get_running_loop().create_task(self._work_for_ever(), name="temporal: worker")

    async def stop(self) -> None:
        """Take nothing more, and let what is under way end within the grace."""
        self._stopping.set()
        if self._working is not None:
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work_for_ever(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                client = self._client or await self._connect()
                worker = self._worker(client)
                async with worker:
                    failures = 0
                    await self._stopping.wait()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                failures += 1
                log.warning("%s: the worker ended, trying again: %r", self.address.name, error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BACKOFF.delay_s(min(failures, 10), 0.5)):
                        await self._stopping.wait()

    def _worker(self, client: Client) -> Worker:
        restrictions = SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
        return Worker(
            client,
            task_queue=self.task_queue,
            workflows=[SagaWorkflow],
            activities=self._activities.every,
            workflow_runner=SandboxedWorkflowRunner(restrictions=restrictions),
            max_concurrent_activities=self.address.activities_max,
            max_cached_workflows=WORKFLOWS_CACHED_MAX,
            graceful_shutdown_timeout=timedelta(seconds=self._grace_s),
        )

    async def _connect(self) -> Client:
        """
        Raises:
            RPCError, RuntimeError: there is no connection; or the server does not have the namespace, or does not let
                us in.
        """
        api_key = _text_of(self.address.api_key_file) or self._secrets.api_key
        client = await Client.connect(
            self.address.target,
            namespace=self.address.namespace,
            api_key=api_key,
            tls=self._tls() if self.address.is_tls or api_key else False,
            connect_timeout=timedelta(seconds=CONNECT_S),
            runtime=runtime(),
        )
        await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace=self.address.namespace), timeout=timedelta(seconds=CONNECT_S)
        )
        self._client = client
        return client

    def _tls(self) -> TLSConfig:
        where = self.address
        return TLSConfig(
            server_root_ca_cert=_bytes_of(where.ca),
            domain=where.server_name,
            client_cert=_bytes_of(where.certificate),
            client_private_key=_bytes_of(where.key),
        )

    def _check(self, error: RPCError) -> None:
        if error.status in MISCONFIGURED:
            raise ConfigurationError(
                f"{WHERE}: {self.address.name} answers {error.status.name}: {error.message}; make the namespace with "
                f"`temporal operator namespace create`, or put a key that may use it into {API_KEY}"
            ) from error
        log.warning("%s cannot be used yet, trying again: %s", self.address.name, error.message)


def _bytes_of(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file is not None else None
    except OSError as error:
        raise ConfigurationError(f"{WHERE}: {file} cannot be read: {error.strerror}") from error


def _text_of(file: Path | None) -> str | None:
    content = _bytes_of(file)
    return content.decode().strip() if content is not None else None
