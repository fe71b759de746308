"""`cytomask submit`: request masks of images that are already in S3."""

import json
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say
from cytomask.cli.options import (
    OUTPUTS,
    Commands,
    Parser,
    add_channel_option,
    add_cleaning_options,
    add_command,
    duration,
    on_stack,
)

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.records import JobRow

EXAMPLES = (
    "cytomask submit s3://bucket/a.tif --threshold 0.35     # prints the job's id",
    "cytomask submit s3://bucket/a.tif --wait               # and waits for the outcome",
    "cytomask submit s3://bucket/a.tif --group HeLa --ground-truth s3://bucket/truth.png",
)
FIELDS = (
    *("ground_truth", "group", "threshold", "mode", "pages", "channel", "outputs"),
    *("min_size_px", "min_size_um2", "fill_holes", "pixel_size_um"),
)
ENDED = ("SUCCEEDED", "REJECTED", "FAILED")
POLL_SECONDS = 0.5
CLOCKS_DIFFER = timedelta(minutes=5)  # this computer's clock may be ahead of the functions' by this much


@dataclass
class Sent:
    """A request that was sent. `before` is the time of its job's last change, if the job existed already."""

    image: str
    job_id: str
    before: str | None


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "submit",
        "request masks of images that are in S3",
        on_stack(run_submit),
        EXAMPLES,
        description="Prints the id of each image's job. With --wait, the exit code is 1 unless all\n"
        "succeeded.",
        on_a_stack=True,
    )
    parser.add_argument("images", nargs="+", metavar="S3URI", help="s3://bucket/key")
    parser.add_argument("--ground-truth", metavar="S3URI", help="a mask of the image, or a COCO file")
    parser.add_argument("--group", metavar="G", help="a label to report by")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="probability, 0 to 1; default: the model's"
    )
    parser.add_argument("--mode", choices=("native", "resize"), help="default: native")
    parser.add_argument("--pages", metavar="P", help="0, 0-3 or all, counted from 0; default: all")
    add_channel_option(parser)
    parser.add_argument("--outputs", nargs="+", choices=OUTPUTS, help="default: mask")
    add_cleaning_options(parser)
    parser.add_argument("--wait", action="store_true", help="wait until all jobs have ended, and show them")
    parser.add_argument(
        "--timeout", type=duration, default="15m", metavar="TIME", help="longest time to --wait; default: 15m"
    )


def run_submit(stack: "Stack", arguments: Namespace) -> int:
    """Send a request for each image; if any is invalid, send none and return 2."""
    from cytomask.addresses import is_coco
    from cytomask.admission import require_served
    from cytomask.errors import ForeignBucket, InvalidRequest  # msgspec and the layer behind it
    from cytomask.requests import parse_request

    requests = [request_for(image, arguments) for image in arguments.images]
    try:
        parsed = [parse_request(request) for request in requests]
    except InvalidRequest as error:
        complain(f"nothing was sent: {error}")
        return 2
    truth = arguments.ground_truth
    if truth and len(requests) > 1 and not is_coco(truth):
        complain(
            f"nothing was sent: {truth} cannot be the ground truth of {len(requests)} images; submit them "
            "one by one, or name a COCO file (.json)"
        )
        return 2
    served = {*stack.data_buckets, *stack.allowed_buckets}
    try:
        for asked in parsed:
            require_served(asked, served=served, outputs=stack.output_bucket)
    except ForeignBucket as error:
        complain(f"nothing was sent: {error}")
        return 2
    sent = [_send(stack, request) for request in requests]
    return _wait(stack, sent, arguments.timeout) if arguments.wait else 0


def request_for(image: str, arguments: Namespace) -> dict[str, Any]:
    """Make the message for one image from the given options."""
    given = {name: getattr(arguments, name) for name in FIELDS}
    return {"image": image} | {name: value for name, value in given.items() if value is not None}


def _send(stack: "Stack", request: dict[str, Any]) -> Sent:
    """Send a request and print the id of its job."""
    job_id = _job_id(stack, request)
    row = _job_row(stack, job_id)
    stack.sqs.send_message(QueueUrl=stack.segment_queue, MessageBody=json.dumps(request, ensure_ascii=False))
    say(f"{job_id}  {request['image']}")
    return Sent(request["image"], job_id, row.updated_at if row else None)


def _job_id(stack: "Stack", request: dict[str, Any]) -> str:
    """Return the id that the stack will give to the job."""
    from cytomask.requests import parse_request
    from cytomask.served_model import work_of
    from cytomask.storage import Storage

    asked = parse_request(request)
    image = Storage(stack.s3).find(asked.image) or asked.image
    return work_of(replace(asked, image=image), stack.models().of(asked)).job_id


def _job_row(stack: "Stack", job_id: str) -> "JobRow | None":
    found = stack.rows.of(job_id)
    return found[0] if found else None


def _wait(stack: "Stack", sent: Sequence[Sent], timeout: timedelta) -> int:
    """Wait until every job has ended, show them, and return the exit code."""
    from cytomask.cli.jobs import print_jobs  # needed only here

    deadline = time.monotonic() + timeout.total_seconds()
    began = datetime.now(UTC) - CLOCKS_DIFFER
    ended: dict[str, JobRow] = {}
    while len(ended) < len(sent) and time.monotonic() < deadline:
        for each in sent:
            row = None if each.image in ended else _outcome(stack, each, began)
            if row:
                ended[each.image] = row
        if len(ended) < len(sent):
            time.sleep(POLL_SECONDS)
    say()
    print_jobs(stack, list(ended.values()))
    for each in sent:
        if each.image not in ended:
            complain(
                f"{each.image} has not ended after {timeout}; `cytomask jobs {each.job_id}` says more later"
            )
    return 0 if all(row.status == "SUCCEEDED" for row in ended.values()) and len(ended) == len(sent) else 1


def _outcome(stack: "Stack", sent: Sent, began: datetime) -> "JobRow | None":
    """Return the job's row if it has ended since the request was sent.

    A stack with another model gives the job another id; then find the job by its image.
    """
    from cytomask.cli.rows import Search  # boto3 takes half a second

    row = _job_row(stack, sent.job_id)
    if row is None:
        found = stack.rows.jobs(Search(since=began))
        row = next((each for each in found if each.image == sent.image), None)
    if row is None or row.status not in ENDED:
        return None
    unchanged = row.status == "FAILED" and row.updated_at == sent.before
    return None if unchanged else row
