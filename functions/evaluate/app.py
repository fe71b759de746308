"""Entry point of the evaluate function: takes batches of the evaluation queue, answers with what failed."""

import os
from typing import Any

import boto3
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.clients import CLIENTS
from cytomask.jobs import Jobs
from cytomask.requests import Evaluation, Ignored, Refused, parse_evaluation
from cytomask.retries import RetryingProcessor
from cytomask.settings import Settings
from cytomask.storage import Storage

from .evaluator import Evaluator
from .indexer import Indexer

logger = Logger()


def connect() -> tuple[Evaluator, RetryingProcessor]:
    """Makes the clients; an environment that is wrong ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    storage = Storage(boto3.client("s3", config=CLIENTS))
    jobs = Jobs(boto3.client("dynamodb", config=CLIENTS), settings.jobs_table)
    sqs = boto3.client("sqs", config=CLIENTS)
    indexer = Indexer(settings, storage, jobs, sqs, logger)
    retrying = RetryingProcessor(
        sqs, settings.evaluation_queue_url, settings.retry_delay, settings.tries, logger
    )
    return Evaluator(settings, storage, jobs, indexer, logger), retrying


evaluator, processor = connect()


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> Any:
    """Scores what the queue's messages ask for; returns the messages to deliver again."""
    return process_partial_response(event, evaluate_message, processor, context)


def evaluate_message(record: SQSRecord) -> None:
    """Does what one message asks for; the first passing fault is raised after the last of it."""
    logger.append_keys(message_id=record.message_id)
    faults: list[Exception] = []
    for arrival in parse_evaluation(record.body):
        match arrival:
            case Ignored(what, reason):
                logger.info("event_ignored", what=what, reason=reason)
            case Refused(text, error):
                logger.error("message_refused", text=text, error_code=error.code, error=str(error))
            case Evaluation():
                faults += evaluator.score_all([arrival])
            case uploaded:
                faults += evaluator.score_all(evaluator.evaluations_of(uploaded))
    if faults:
        raise faults[0]
