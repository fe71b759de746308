"""When a failed message is delivered again, and which faults no retry can mend."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, ExceptionInfo, FailureResponse
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from cytomask.errors import TimeShort, code_of

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

GROWTH = 4
LONGEST_DELAY_SECONDS = 3600
NOT_REACHED = "the messages before it took half of the invocation's time; it goes back untouched"


def retry_delay(first: int, deliveries: int, tries: int) -> int:
    """Return the seconds until a message with `deliveries` failures comes again; after one, `first`.

    After the last of the `tries` it is 0: the queue moves the message to the dead letters at its next
    delivery, so a wait would only delay the news that its job has failed.
    """
    if deliveries == tries:
        return 0
    return min(first * int(GROWTH ** (deliveries - 1)), LONGEST_DELAY_SECONDS)


def is_final(error: Exception) -> bool:
    """Tell whether AWS or its client will always refuse a call, so that no retry can help."""
    if isinstance(error, ParamValidationError):
        return True
    return isinstance(error, ClientError) and code_of(error) in (
        "ValidationException",
        "InvalidParameterValue",
        "InvalidMessageContents",
    )


class RetryingProcessor(BatchProcessor):
    """Powertools' processor of SQS batches; a failed message waits longer with every try.

    The delay is set as the message's visibility timeout
    (docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html). If
    it cannot be set, the queue's own timeout applies.
    """

    def __init__(
        self, sqs: "SQSClient", queue_url: str, first_delay: int, tries: int, logger: Logger
    ) -> None:
        """Take `first_delay` in seconds, and after how many `tries` the queue gives a message up."""
        super().__init__(event_type=EventType.SQS, raise_on_entire_batch_failure=False)
        self._sqs = sqs
        self._queue_url = queue_url
        self._first_delay = first_delay
        self._tries = tries
        self._logger = logger

    def failure_handler(self, record: SQSRecord, exception: ExceptionInfo) -> FailureResponse:
        """Note the failure for the batch's answer, and set when the message comes again."""
        if isinstance(exception[1], TimeShort) and self._sent_again(record):
            return self.success_handler(record, "sent again")
        deliveries = int(record.attributes.approximate_receive_count or 1)
        delay = retry_delay(self._first_delay, deliveries, self._tries)
        fields: dict[str, Any] = {"message_id": record.message_id, "deliveries": deliveries, "seconds": delay}
        try:
            self._sqs.change_message_visibility(
                QueueUrl=self._queue_url, ReceiptHandle=record.receipt_handle, VisibilityTimeout=delay
            )
        except (BotoCoreError, ClientError) as error:
            self._logger.warning("delay_not_set", error=str(error), **fields)
        else:
            self._logger.info("message_returned", **fields)
        return super().failure_handler(record, exception)

    def _sent_again(self, record: SQSRecord) -> bool:
        """Send a message that was not reached as a new one, so that this delivery does not count as a try.

        In a backlog of large images each batch has time for one of them. The others would use up their tries.
        """
        try:
            group = record.attributes.get("MessageGroupId")  # of a backfill: fresh uploads come before it
            fair: dict[str, Any] = {"MessageGroupId": group} if group else {}
            sent = self._sqs.send_message(
                QueueUrl=self._queue_url,
                MessageBody=record.body,
                MessageAttributes={
                    name: _attribute(value) for name, value in record["messageAttributes"].items()
                },
                **fair,
            )
        except (BotoCoreError, ClientError, KeyError, ValueError) as error:
            self._logger.warning("not_sent_again", message_id=record.message_id, error=str(error))
            return False
        self._logger.info(
            "message_sent_again", message_id=record.message_id, new_message_id=sent["MessageId"]
        )
        return True


def _attribute(value: Mapping[str, Any]) -> Any:
    """Turn a message's attribute from Lambda's form into that of SQS."""
    if "binaryValue" in value and value["binaryValue"] is not None:
        return {"DataType": value["dataType"], "BinaryValue": base64.b64decode(value["binaryValue"])}
    return {"DataType": value["dataType"], "StringValue": value["stringValue"]}
