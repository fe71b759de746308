"""Entry point of the evaluate function: takes batches of the evaluation queue, answers with what failed."""

import os
from collections.abc import Callable
from typing import Any

import boto3
from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.arrivals import Evaluation, Ignored, Refused
from cytomask.clients import CLIENTS
from cytomask.coco_index import CocoIndex
from cytomask.errors import TimeShort
from cytomask.evaluations import Evaluations
from cytomask.mask_index import MaskIndex
from cytomask.retries import NOT_REACHED, RetryingProcessor
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.table import Table
from cytomask.telemetry import make_logger

from .evaluator import Evaluator
from .indexer import Indexer

LONGEST_TEXT = 2000  # of a message, in the log

logger = make_logger()


def connect() -> tuple[Evaluator, RetryingProcessor]:
    """Make the clients; a wrong environment ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    storage = Storage(boto3.client("s3", config=CLIENTS))
    table = Table(boto3.client("dynamodb", config=CLIENTS), settings.jobs_table)
    sqs = boto3.client("sqs", config=CLIENTS)
    evaluations = Evaluations(table, sqs, settings.evaluation_queue_url, result_at=storage.read_result)
    indexer = Indexer(settings, storage, evaluations, CocoIndex(table), logger)
    retrying = RetryingProcessor(
        sqs, settings.evaluation_queue_url, settings.retry_delay, settings.tries, logger
    )
    return Evaluator(settings, storage, evaluations, indexer, MaskIndex(table), logger), retrying


evaluator, processor = connect()


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Score what the queue's messages ask for; return the messages to deliver again."""
    half = context.get_remaining_time_in_millis() / 2

    def is_late() -> bool:
        return context.get_remaining_time_in_millis() < half

    def evaluate_message(record: SQSRecord) -> None:
        logger.append_keys(message_id=record.message_id)
        if is_late():
            raise TimeShort(NOT_REACHED)
        _evaluate(record.body, is_late)

    return process_partial_response(event, evaluate_message, processor, context)


def _evaluate(body: str, is_late: Callable[[], bool]) -> None:
    """Do everything that one message asks for, then raise the first fault that a retry may mend."""
    faults: list[Exception] = []
    for number, arrival in enumerate(evaluator.read(body)):
        if number and is_late():
            faults.append(TimeShort(f"no time is left for part {number + 1} of the message; it comes again"))
            break
        match arrival:
            case Ignored(what, reason):
                logger.info("event_ignored", what=what, reason=reason)
            case Refused(text, error):
                logger.error(
                    "message_refused",
                    text=text[:LONGEST_TEXT],
                    error_code=error.code,
                    error=str(error),
                    what_to_do="send it again as the error says",
                )
            case Evaluation():
                faults += evaluator.score_all([arrival])
            case uploaded:
                faults += evaluator.score_uploaded(uploaded)
    if faults:
        raise faults[0]
