"""Entry point of the segment function: takes any of its events, answers with results or batch failures."""

import itertools
import json
import os
import time
from typing import Any

import boto3
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.acquisition import parse_pattern
from cytomask.arrivals import Arrival, Ignored, PlateMapUpload, Refused, Settle, parse_body, waiting_job
from cytomask.clients import CLIENTS
from cytomask.coco_index import CocoIndex
from cytomask.errors import JobHeld, RejectedInput, TimeShort
from cytomask.evaluations import Evaluations
from cytomask.http import is_http, make_door
from cytomask.jobs import Jobs
from cytomask.mask_index import MaskIndex
from cytomask.model.predictor import Predictor
from cytomask.model_store import ModelStore
from cytomask.names import Names
from cytomask.plate_counts import PlateCounts, publisher
from cytomask.plate_rows import Plates
from cytomask.records import Result
from cytomask.requests import SegmentRequest
from cytomask.retries import NOT_REACHED, RetryingProcessor
from cytomask.settings import Settings
from cytomask.stack_models import Pins
from cytomask.storage import Storage
from cytomask.table import Table
from cytomask.telemetry import emitted, make_logger

from .invocation import Invocation
from .networks import Networks
from .plating import Plating
from .scoring import Scoring
from .seg_mask import answer_seg_mask
from .segmenter import Segmenter

logger = make_logger()
metrics = Metrics()
door = make_door(logger, metrics)


def connect() -> tuple[Segmenter, RetryingProcessor]:
    """Load the networks while the clients are made; any fault ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    pattern = parse_pattern(settings.name_pattern) if settings.name_pattern else None
    sqs = boto3.client("sqs", config=CLIENTS)
    s3 = boto3.client("s3", config=CLIENTS)
    storage = Storage(s3)
    dynamodb = boto3.client("dynamodb", config=CLIENTS)
    table = Table(dynamodb, settings.jobs_table)
    store = ModelStore(s3, settings.models_bucket)
    networks = Networks(settings.model, store, Pins(table), pattern, Predictor, logger)
    evaluations = Evaluations(table, sqs, settings.evaluation_queue_url)
    plates = Plates(dynamodb, settings.jobs_table)
    publish = publisher(settings.plate_topic, lambda: boto3.client("sns", config=CLIENTS))
    plating = Plating(
        plates,
        PlateCounts(plates, publish, time.time),
        storage,
        pattern,
        logger,
        time.time,
    )
    made = Segmenter(
        settings,
        networks,
        storage,
        Jobs(table),
        Names(table, sqs, settings.segment_queue_url),
        Scoring(storage, evaluations, CocoIndex(table), MaskIndex(table), settings.ground_truth_bucket),
        plating,
        logger,
        metrics,
    )
    networks.wait()
    return made, RetryingProcessor(
        sqs, settings.segment_queue_url, settings.retry_delay, settings.tries, logger
    )


WHAT_TO_DO = "none yet: the message is tried again; after its last try `cytomask redrive` sends it once more"

segmenter, processor = connect()
invocations = itertools.count()


@logger.inject_lambda_context(clear_state=True)
def handler(event: Any, context: LambdaContext) -> Any:
    """Segment the images that an event names.

    Returns:
        For an SQS batch, the messages to deliver again (`batchItemFailures`); for a plain S3 event,
        EventBridge, SNS or a direct request, the list of results; for HTTP, an answer in HttpApi's form.

    Raises:
        Exception: outside SQS and HTTP, the first fault that a retry may mend.
    """
    invocation = Invocation(
        context.aws_request_id,
        lambda: context.get_remaining_time_in_millis() / 1000,
        cold_start=next(invocations) == 0,
        queued=_is_queue_batch(event),
    )
    with emitted(metrics):
        if invocation.cold_start:
            metrics.add_metric("ColdStarts", MetricUnit.Count, 1)
        segmenter.look_at_model()
        return answer(event, context, invocation)


def answer(event: Any, context: LambdaContext, invocation: Invocation) -> Any:
    """Segment what an event names, by the way that it came; answer as `handler` does."""
    if is_http(event):
        door.context["invocation"] = invocation
        return door.resolve(event, context)
    if not _is_queue_batch(event):
        return [result.shown() for result in segment_all(json.dumps(event), invocation)]

    half = invocation.remaining_seconds() / 2

    def segment_message(record: SQSRecord) -> list[Result]:
        if invocation.remaining_seconds() < half:
            raise TimeShort(NOT_REACHED)
        results = segment_all(record.body, invocation, half)
        waiting = waiting_job(record["messageAttributes"])
        if waiting:
            segmenter.withdraw(waiting, record.body, [result.job_id for result in results if result.job_id])
        return results

    return process_partial_response(event, segment_message, processor, context)


@door.post("/seg_mask")
def seg_mask() -> Response[bytes | str]:
    """Segment one image while the caller waits."""
    return answer_seg_mask(segmenter, door.current_event, door.context["invocation"])


def segment_all(body: str, invocation: Invocation, seconds_kept: float = 0) -> list[Result]:
    """Segment every image that a body names; raise the first passing fault after the last image.

    Args:
        body: the message.
        invocation: the call that it came with.
        seconds_kept: if less time is left, no further image is begun. Images that are done are found at once
            when the message comes again.

    Raises:
        TimeShort: time ran out before the last image, and no fault was met.
        Exception: the first fault that a retry may mend.
    """
    results: list[Result] = []
    faults: list[Exception] = []
    for number, named in enumerate(parse_body(body)):
        if number and invocation.remaining_seconds() < seconds_kept:
            faults.append(TimeShort(f"no time is left for image {number + 1} of the message; it comes again"))
            break
        logger.remove_keys(["job_id"])
        arrival = segmenter.admit(named, body)
        try:
            results += _segment_one(arrival, body, invocation)
        except JobHeld as error:
            logger.info("job_held", reason=str(error))
            faults.append(error)
        except Exception as error:
            image = arrival.image.uri if isinstance(arrival, SegmentRequest | Settle) else None
            logger.exception("attempt_failed", image=image, what_to_do=WHAT_TO_DO)
            metrics.add_metric("AttemptsFailed", MetricUnit.Count, 1)
            faults.append(error)
    if faults:
        raise faults[0]
    return results


def _segment_one(arrival: Arrival, body: str, invocation: Invocation) -> list[Result]:
    match arrival:
        case Ignored(what, reason):
            logger.info("event_ignored", what=what, reason=reason)
            return []
        case Settle(image, why):
            return segmenter.settle(image, why, invocation)
        case PlateMapUpload(file):
            segmenter.take_map(file)
            return []
        case Refused(text, error):
            return [segmenter.reject_message(text, error)]
        case SegmentRequest():
            try:
                return [segmenter.segment(arrival, invocation)]
            except RejectedInput as error:
                return [segmenter.reject_message(body, error)]


def _is_queue_batch(event: object) -> bool:
    match event:
        case {"Records": [{"eventSource": "aws:sqs"}, *_]}:
            return True
    return False
