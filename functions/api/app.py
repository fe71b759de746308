"""Entry point of the api function: jobs over HTTP."""

import os
from http import HTTPStatus
from typing import Any

import boto3
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from cytomask.acquisition import parse_pattern
from cytomask.clients import CLIENTS
from cytomask.errors import InvalidRequest, NoSuchRoute
from cytomask.evaluations import Evaluations
from cytomask.http import CSV, JSON, answer, make_door, prefers, read_json, read_query
from cytomask.jobs import Jobs
from cytomask.model_store import ModelStore
from cytomask.plate_rows import Plates
from cytomask.requests import decode, parse_request
from cytomask.settings import Settings
from cytomask.stack_models import Pins, StackModels, read_current
from cytomask.storage import Storage
from cytomask.table import Table
from cytomask.telemetry import emitted, make_logger

from .desk import Desk, parse_search
from .plates import PlateDesk

logger = make_logger()
metrics = Metrics()
door = make_door(logger, metrics)


def connect() -> tuple[Desk, PlateDesk]:
    """Make the clients; a wrong environment ends the cold start here."""
    settings = Settings.from_environment(os.environ)
    dynamodb = boto3.client("dynamodb", config=CLIENTS)
    s3 = boto3.client("s3", config=CLIENTS)
    table = Table(dynamodb, settings.jobs_table)
    pattern = parse_pattern(settings.name_pattern) if settings.name_pattern else None
    current = read_current(ModelStore(s3, settings.models_bucket), settings.model)
    plates = PlateDesk(Plates(dynamodb, settings.jobs_table), settings.jobs_table)
    made = Desk(
        settings,
        StackModels(current, Pins(table).read, pattern),
        Storage(s3),
        Jobs(table),
        Evaluations(table),
        boto3.client("sqs", config=CLIENTS),
    )
    return made, plates


desk, plate_desk = connect()


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answer one request of the HttpApi, in its own form."""
    with emitted(metrics):
        return door.resolve(event, context)


@door.post("/jobs")
def post_job() -> Response[bytes | str]:
    """Queue the requested job."""
    _require_no_query()
    job = desk.queue(parse_request(decode(read_json(door.current_event))))
    logger.info("job_queued", job_id=job["job_id"], image=job["image"], status=job["status"])
    metrics.add_metric("JobsQueued", MetricUnit.Count, 1)
    return answer(HTTPStatus.ACCEPTED, job, {"Location": f"/jobs/{job['job_id']}"})


@door.get("/jobs/<job_id>")
def get_job(job_id: str) -> Response[bytes | str]:
    """Show one job."""
    _require_no_query()
    return answer(HTTPStatus.OK, desk.job(job_id))


@door.get("/jobs")
def get_jobs() -> Response[bytes | str]:
    """List jobs by status, group or both."""
    return answer(HTTPStatus.OK, desk.jobs(parse_search(read_query(door.current_event))))


@door.get("/plates")
def get_plates() -> Response[bytes | str]:
    """List the plates."""
    _require_no_query()
    return answer(HTTPStatus.OK, plate_desk.list())


# One rule for both: the resolver's own placeholders do not match every name that a plate may have.
@door.get("/plates/.+")
def get_of_plate() -> Response[bytes | str]:
    """Show how the wells of a plate grow, or list its pages, as JSON or as a CSV."""
    event = door.current_event
    name, _, part = event.path.removeprefix("/plates/").partition("/")
    if part not in ("", "pages"):
        raise NoSuchRoute(f"{event.path[:300]} leads nowhere; see docs/openapi.yaml")
    if not part:
        return answer(HTTPStatus.OK, plate_desk.show(name, read_query(event)))
    found = plate_desk.pages(name, read_query(event))
    if not prefers(event, CSV, JSON):
        return answer(HTTPStatus.OK, found.shown())
    headers = {"Link": f'<{found.link}>; rel="next"'} if found.link else None
    return Response(HTTPStatus.OK, CSV, found.csv(), headers)


def _require_no_query() -> None:
    if door.current_event.raw_query_string:
        raise InvalidRequest("this route takes no query; leave out what follows the `?`")
