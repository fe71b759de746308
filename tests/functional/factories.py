"""Images and events for the functional tests."""

import io
import json
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_plus

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytomask.samples.fields import phase_contrast_field

REGION: Final = "eu-central-1"
TABLE = "cytomask-JobsTable-1ABC"
QUEUE_URL = f"https://sqs.{REGION}.amazonaws.com/123456789012/cytomask-evaluation"
SEGMENT_QUEUE_URL = f"https://sqs.{REGION}.amazonaws.com/123456789012/cytomask-segment"
INPUT = "cytomask-input-000000000000-eu-central-1"
OUTPUT = "cytomask-output-000000000000-eu-central-1"
GROUND_TRUTH = "cytomask-ground-truth-000000000000-eu-central-1"
MODELS = "cytomask-models-000000000000-eu-central-1"

HEIGHT, WIDTH = 64, 80
EVENTS = Path(__file__).parents[1] / "events"


@dataclass(frozen=True)
class LambdaContext:
    """The context that Lambda passes to a handler."""

    aws_request_id: str
    function_name: str = "cytomask-segment"
    memory_limit_in_mb: int = 3008
    invoked_function_arn: str = f"arn:aws:lambda:{REGION}:000000000000:function:cytomask-segment"

    def get_remaining_time_in_millis(self) -> int:
        return 120_000


@cache
def page(seed: int = 0) -> NDArray[np.uint16]:
    """Make a small field of cells, (64, 80) uint16."""
    return phase_contrast_field(seed, HEIGHT, WIDTH).pixels


def tiff(pixels: NDArray[Any] | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, page() if pixels is None else pixels, **options)
    return stream.getvalue()


def stack_of(count: int) -> bytes:
    """Make a TIFF of several pages with different cells."""
    return tiff(np.stack([page(seed) for seed in range(count)]), photometric="minisblack")


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def ground_truth() -> bytes:
    return png(phase_contrast_field(0, HEIGHT, WIDTH).cells.astype(np.uint8) * 255)


def event_file(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


def s3_record(key: str, bucket: str = INPUT, version: str | None = None) -> dict[str, Any]:
    """Make a record of S3's notification, with the key encoded as S3 does."""
    record: dict[str, Any] = event_file("s3_put")["Records"][0]
    record["s3"]["bucket"]["name"] = bucket
    record["s3"]["object"]["key"] = quote_plus(key, safe="/")
    if version is not None:
        record["s3"]["object"]["versionId"] = version
    return record


def s3_event(*keys: str, bucket: str = INPUT) -> dict[str, Any]:
    return {"Records": [s3_record(key, bucket) for key in keys]}


def request(key: str, **fields: Any) -> dict[str, Any]:
    return {"image": f"s3://{INPUT}/{key}"} | fields


def sqs_batch(*bodies: Any, queue: str = "cytomask-segment", waiting: str = "") -> dict[str, Any]:
    """Make a batch of messages `m0`, `m1`, …; jobs may wait for them. Other bodies than text become JSON."""
    record = event_file("s3_in_sqs")["Records"][0]
    record["eventSourceARN"] = f"arn:aws:sqs:eu-central-1:000000000000:{queue}"
    if waiting:
        record["messageAttributes"] = {"job_id": {"stringValue": waiting, "dataType": "String"}}
    texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    return {
        "Records": [record | {"messageId": f"m{index}", "body": text} for index, text in enumerate(texts)]
    }


def failed_messages(answer: dict[str, Any]) -> list[int]:
    """Return the positions of the messages that a function wants delivered again."""
    return [int(failure["itemIdentifier"].removeprefix("m")) for failure in answer["batchItemFailures"]]


def header_only_tiff(height: int, width: int) -> bytes:
    """Make a TIFF whose one directory promises 8-bit grey pixels and has none."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 8}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
