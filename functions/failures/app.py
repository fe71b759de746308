"""Entry point of the failures function: takes batches of both dead-letter queues."""

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.clients import CLIENTS
from cytomask.errors import JobHeld
from cytomask.jobs import Jobs
from cytomask.requests import waiting_job
from cytomask.served_model import read_served_models
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.telemetry import emitted

from .recorder import Recorder

logger = Logger()
metrics = Metrics()
processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def connect() -> Recorder:
    """Makes the clients; an environment that is wrong ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    return Recorder(
        settings,
        read_served_models(),
        Storage(boto3.client("s3", config=CLIENTS)),
        Jobs(boto3.client("dynamodb", config=CLIENTS), settings.jobs_table),
        logger,
        metrics,
    )


recorder = connect()


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Records what failed for good; returns the messages to deliver again, which stay in their queue."""
    with emitted(metrics):
        return process_partial_response(event, record_message, processor, context)


def record_message(record: SQSRecord) -> None:
    """Records one dead letter.

    Raises:
        Exception: whatever kept any part of it from being recorded; nothing is lost by another try.
    """
    logger.append_keys(message_id=record.message_id)
    try:
        job_ids = recorder.record(record.body, record.event_source_arn)
        waiting = waiting_job(record["messageAttributes"])
        if waiting:
            recorder.withdraw(waiting, job_ids)
    except JobHeld as error:
        logger.info("job_held", reason=str(error))
        raise
    except Exception:
        logger.exception("recording_failed", text=record.body)
        metrics.add_metric("RecordingsFailed", MetricUnit.Count, 1)
        raise
