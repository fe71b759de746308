"""Entry point of the segment function: takes any of its events, answers with results or batch failures."""

import itertools
import json
import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.clients import CLIENTS
from cytomask.errors import JobHeld, TimeShort
from cytomask.http import is_http, make_door
from cytomask.jobs import Jobs
from cytomask.model.predictor import Predictor
from cytomask.requests import Ignored, Refused, SegmentRequest, parse_body, waiting_job
from cytomask.retries import RetryingProcessor
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.telemetry import emitted

from .seg_mask import answer_seg_mask
from .segmenter import Invocation, Result, Segmenter

logger = Logger()
metrics = Metrics()
door = make_door(logger, metrics)


def connect() -> tuple[Segmenter, RetryingProcessor]:
    """Loads the networks beside making the clients; what is wrong with any ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    predictor = Predictor()
    sqs = boto3.client("sqs", config=CLIENTS)
    made = Segmenter(
        settings,
        predictor,
        Storage(boto3.client("s3", config=CLIENTS)),
        Jobs(boto3.client("dynamodb", config=CLIENTS), settings.jobs_table),
        sqs,
        logger,
        metrics,
    )
    predictor.wait()
    return made, RetryingProcessor(
        sqs, settings.segment_queue_url, settings.retry_delay, settings.tries, logger
    )


segmenter, processor = connect()
invocations = itertools.count()


@logger.inject_lambda_context(clear_state=True)
def handler(event: Any, context: LambdaContext) -> Any:
    """Segments whatever the event names.

    Returns:
        For an SQS batch, the messages to deliver again (`batchItemFailures`); for a plain S3 event,
        EventBridge, SNS or a direct request, the list of results; for HTTP, an answer in HttpApi's form.

    Raises:
        Exception: outside SQS and HTTP, the first fault that a retry can mend.
    """
    invocation = Invocation(
        context.aws_request_id,
        lambda: context.get_remaining_time_in_millis() / 1000,
        cold_start=next(invocations) == 0,
    )
    with emitted(metrics):
        if invocation.cold_start:
            metrics.add_metric("ColdStarts", MetricUnit.Count, 1)
        return answer(event, context, invocation)


def answer(event: Any, context: LambdaContext, invocation: Invocation) -> Any:
    """Segments what an event names, by the way that it came; answers as `handler` does."""
    if is_http(event):
        door.context["invocation"] = invocation
        return door.resolve(event, context)
    if not _is_queue_batch(event):
        return segment_all(json.dumps(event), invocation)

    whole = invocation.remaining_seconds()

    def segment_message(record: SQSRecord) -> list[Result]:
        logger.append_keys(message_id=record.message_id)
        if invocation.remaining_seconds() < whole / 2:
            raise TimeShort(
                "the messages before it took half of the invocation's time; it goes back untouched"
            )
        results = segment_all(record.body, invocation)
        waiting = waiting_job(record["messageAttributes"])
        if waiting:
            segmenter.withdraw(waiting, [result["job_id"] for result in results])
        return results

    return process_partial_response(event, segment_message, processor, context)


@door.post("/seg_mask")
def seg_mask() -> Response[bytes | str]:
    """Segments one image while the caller waits."""
    return answer_seg_mask(segmenter, door.current_event, door.context["invocation"])


def segment_all(body: str, invocation: Invocation) -> list[Result]:
    """Segments every image that a body names; the first passing fault is raised after the last image."""
    results: list[Result] = []
    faults: list[Exception] = []
    for named in parse_body(body):
        logger.remove_keys(["job_id"])
        arrival = segmenter.admit(named, body)
        if isinstance(arrival, Ignored):
            logger.info("event_ignored", what=arrival.what, reason=arrival.reason)
            continue
        try:
            if isinstance(arrival, Refused):
                results.append(segmenter.reject_message(arrival.text, arrival.error))
            else:
                results.append(segmenter.segment(arrival, invocation))
        except JobHeld as error:
            logger.info("job_held", reason=str(error))
            faults.append(error)
        except Exception as error:
            image = arrival.image.uri if isinstance(arrival, SegmentRequest) else None
            logger.exception("attempt_failed", image=image)
            metrics.add_metric("AttemptsFailed", MetricUnit.Count, 1)
            faults.append(error)
    if faults:
        raise faults[0]
    return results


def _is_queue_batch(event: object) -> bool:
    match event:
        case {"Records": [{"eventSource": "aws:sqs"}, *_]}:
            return True
    return False
