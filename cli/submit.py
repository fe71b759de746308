"""`cytomask submit`: requests for images that lie in S3 already."""

import argparse
import json
import sys
from typing import Any

from cytomask.cli.stack import Stack
from cytomask.errors import InvalidRequest
from cytomask.requests import is_coco, parse_request

FIELDS = ("ground_truth", "group", "threshold", "mode", "pages", "channel", "outputs")


def run_submit(stack: Stack, arguments: argparse.Namespace) -> int:
    """Sends a request for each image; 2 if any of them is not one, and then none is sent."""
    requests = [request_for(image, arguments) for image in arguments.images]
    try:
        for request in requests:
            parse_request(request)
    except InvalidRequest as error:
        print(f"nothing was sent: {error}", file=sys.stderr)
        return 2
    truth = arguments.ground_truth
    if truth and len(requests) > 1 and not is_coco(truth):
        print(
            f"nothing was sent: {truth} cannot be the ground truth of {len(requests)} images; submit them "
            "one by one, or name a COCO file (.json)",
            file=sys.stderr,
        )
        return 2
    for request in requests:
        stack.sqs.send_message(
            QueueUrl=stack.segment_queue, MessageBody=json.dumps(request, ensure_ascii=False)
        )
        print(f"sent {request['image']}", flush=True)
    return 0


def request_for(image: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The message for one image, with the fields that were given."""
    given = {name: getattr(arguments, name) for name in FIELDS}
    return {"image": image} | {name: value for name, value in given.items() if value is not None}
