"""AWS SNS and SQS: a destination is an SNS topic, and each group has an SQS queue for each of its topics."""

from minuet.adapters.sns_sqs.address import split
from minuet.adapters.sns_sqs.broker import SnsSqsBroker

__all__ = ["SnsSqsBroker", "split"]
