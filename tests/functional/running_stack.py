"""Shared by tests of a running emulated stack: send an image, wait, count the scores."""

import io
import json
import time
from collections.abc import Callable
from typing import Any

import tifffile

from cytomask.infra.emulator import EmulatedStack
from cytomask.samples.fields import phase_contrast_field


def segment(stack: EmulatedStack, key: str, *, seed: int, seconds: float) -> Any:
    """Upload a generated image and wait for its result."""
    image = io.BytesIO()
    tifffile.imwrite(image, phase_contrast_field(seed, 64, 80).pixels)
    s3 = stack.client("s3")
    s3.put_object(Bucket=stack.outputs["InputBucketName"], Key=key, Body=image.getvalue())

    def result() -> Any:
        place = {"Bucket": stack.outputs["OutputBucketName"], "Key": f"{key}.result.json"}
        try:
            return json.loads(s3.get_object(**place)["Body"].read())
        except s3.exceptions.NoSuchKey:
            return None

    return until(result, seconds)


def scores(stack: EmulatedStack) -> int:
    """Count the masks that have been scored."""
    rows = stack.client("dynamodb").scan(TableName=stack.outputs["JobsTableName"])["Items"]
    return sum(row.get("evaluation_status", {}).get("S") == "SCORED" for row in rows)


def until(look: Callable[[], Any], seconds: float) -> Any:
    """Look until something is found; fail after this many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing within {seconds} s"
        time.sleep(0.2)
    return found
