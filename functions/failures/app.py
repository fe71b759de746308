"""Entry point of the failures function: takes batches of both dead-letter queues."""

import os
import time
from typing import Any

import boto3
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.acquisition import parse_pattern
from cytomask.arrivals import waiting_job
from cytomask.clients import CLIENTS
from cytomask.errors import JobHeld, TimeShort
from cytomask.evaluations import Evaluations
from cytomask.jobs import Jobs
from cytomask.model_store import ModelStore
from cytomask.names import Names
from cytomask.plate_counts import PlateCounts, publisher
from cytomask.plate_rows import Plates
from cytomask.retries import is_final
from cytomask.settings import Settings
from cytomask.stack_models import Pins, StackModels, read_current
from cytomask.storage import Storage
from cytomask.table import Table
from cytomask.telemetry import emitted, make_logger

from .recorder import Recorder

LONGEST_TEXT = 2000  # of a message, in the log

logger = make_logger()
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def connect() -> Recorder:
    """Make the clients; a wrong environment ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    dynamodb = boto3.client("dynamodb", config=CLIENTS)
    s3 = boto3.client("s3", config=CLIENTS)
    storage = Storage(s3)
    table = Table(dynamodb, settings.jobs_table)
    pattern = parse_pattern(settings.name_pattern) if settings.name_pattern else None
    current = read_current(ModelStore(s3, settings.models_bucket), settings.model)
    publish = publisher(settings.plate_topic, lambda: boto3.client("sns", config=CLIENTS))
    return Recorder(
        settings,
        StackModels(current, Pins(table).read, pattern),
        storage,
        Jobs(table),
        Evaluations(table, result_at=storage.read_result),
        Names(table),
        PlateCounts(Plates(dynamodb, settings.jobs_table), publish, time.time),
        logger,
        metrics,
    )


recorder = connect()


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Record what failed for good; return the messages to deliver again, which stay in their queue."""

    def record_one(record: SQSRecord) -> None:
        record_message(record, context)

    with emitted(metrics):
        return process_partial_response(event, record_one, processor, context)


def record_message(record: SQSRecord, context: LambdaContext) -> None:
    """Record one dead letter.

    Raises:
        Exception: a fault kept a part from being recorded; a retry loses nothing.
    """
    logger.append_keys(message_id=record.message_id)
    try:
        job_ids = recorder.record(
            record.body,
            record.event_source_arn,
            remaining_seconds=lambda: context.get_remaining_time_in_millis() / 1000,
            message_group=record.attributes.get("MessageGroupId"),
        )
        waiting = waiting_job(record["messageAttributes"])
        if waiting:
            recorder.withdraw(waiting, record.body, job_ids)
    except (JobHeld, TimeShort) as error:
        logger.info("job_held", reason=str(error))
        raise
    except Exception as error:
        if is_final(error):
            logger.exception(
                "dead_letter_dropped",
                text=record.body[:LONGEST_TEXT],
                what_to_do="nothing can record this message; correct it and send it again",
            )
            return
        logger.exception(
            "recording_failed",
            text=record.body[:LONGEST_TEXT],
            what_to_do="none yet: the dead letter stays in its queue and is tried again",
        )
        metrics.add_metric("RecordingsFailed", MetricUnit.Count, 1)
        raise
