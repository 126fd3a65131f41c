"""What an error of the AWS SDK means for us: one type for each reaction.

The SDK is imported only when it is needed, here and in `broker`: it imports urllib3, which opens a socket when it is
imported, to see whether there is IPv6.
"""

from __future__ import annotations

import re

from minuet.adapters.broker.port import Disconnected
from minuet.core.errors import ConfigurationError, MessageError

DENIED = re.compile(
    "AccessDenied|Authorization|UnauthorizedOperation|KMSAccessDenied|KMSDisabled|KMSNotFound|KMSOptInRequired|OptInRequired"
)
NOT_KNOWN = re.compile(
    "InvalidClientTokenId|SignatureDoesNotMatch|UnrecognizedClient|MissingAuthenticationToken|ExpiredToken|"
    "InvalidAccessKeyId|IncompleteSignature|InvalidSecurity|AuthFailure|NotAuthorized"
)
MISSING = re.compile("NotFound|NonExistentQueue|QueueDoesNotExist")
BUSY = re.compile(
    "Throttl|RequestLimitExceeded|TooManyRequests|OverLimit|ServiceUnavailable|InternalError|InternalFailure"
)
SERVER_ERROR = 500
TOO_MANY = 429


class Missing(Exception):
    """The topic or queue that was asked about does not exist."""


def meaning(error: BaseException, doing: str) -> Exception:
    """What to raise or report instead of an error of the SDK.

    Args:
        doing: what was tried, for example "receiving from queue minuet-inventory_orders".

    Returns:
        `Missing`: the topic or queue is not there. ConfigurationError: who we are, or what we may do, is wrong.
        MessageError: SNS or SQS refuses what it was given, and will again. `Disconnected`: anything else.
    """
    import aiohttp
    from botocore import exceptions as sdk  # type: ignore[import-untyped]

    credentials = (
        sdk.NoCredentialsError,
        sdk.PartialCredentialsError,
        sdk.NoRegionError,
        sdk.ProfileNotFound,
        sdk.UnauthorizedSSOTokenError,
    )
    if isinstance(error, credentials):
        return ConfigurationError(
            f"{doing}: {error}. Give the AWS SDK credentials: a role of the machine or pod, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, sdk.ClientError):
        told = error.response.get("Error", {})
        code, text = str(told.get("Code", "")), str(told.get("Message", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", SERVER_ERROR)
        return of_code(code, text, status < SERVER_ERROR and status != TOO_MANY, doing)
    if isinstance(error, sdk.ParamValidationError):
        return MessageError(f"{doing}: {error}")
    if isinstance(error, (sdk.BotoCoreError, sdk.HTTPClientError, aiohttp.ClientError, OSError, TimeoutError)):
        return Disconnected(f"{doing}: {error or type(error).__name__}")
    assert isinstance(error, Exception), error
    return error


def of_code(code: str, text: str, is_ours: bool, doing: str) -> Exception:
    """The same for an error code of AWS, for example one of an entry of a batch.

    Args:
        is_ours: whether AWS says that the fault is the sender's.
    """
    said = f"{doing}: AWS says {code}: {text}"
    if BUSY.search(code) or not is_ours:
        return Disconnected(said)
    if NOT_KNOWN.search(code):
        return ConfigurationError(f"{said}. Give the AWS SDK valid credentials of the right account")
    if DENIED.search(code):
        return ConfigurationError(f"{said}. Allow it in the IAM policy; docs/adapters/sns-sqs.md has one to start from")
    if MISSING.search(code):
        return Missing(said)
    return MessageError(said)
