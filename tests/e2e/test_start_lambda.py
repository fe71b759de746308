"""`sam local start-lambda`: the function behind Lambda's own API, for boto3."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from account import LOOPBACK
from botocore.config import Config
from tools import PATIENCE_SECONDS, left_running, mask_of_command_line

from cytomask.infra.session import REGION


@pytest.fixture(scope="module")
def lambdas(built: Any, environment_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Make a boto3 client of the Lambda that sam emulates."""
    log = tmp_path_factory.mktemp("start-lambda") / "log"
    with left_running("start-lambda", environment_file, log) as port:
        yield boto3.client(
            "lambda",
            endpoint_url=f"http://{LOOPBACK}:{port}",
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(read_timeout=PATIENCE_SECONDS, retries={"total_max_attempts": 1}, proxies={}),
        )


def invoke(lambdas: Any, event: Any) -> Any:
    answer = lambdas.invoke(FunctionName="SegmentFunction", Payload=json.dumps(event).encode())
    assert answer["StatusCode"] == 200
    return json.loads(answer["Payload"].read())


def test_boto3_gets_the_results_and_the_masks_are_there(
    lambdas: Any, store: Any, pictures: Any, tmp_path: Path
) -> None:
    picture = next(iter(pictures.values()))
    first, second = (store.upload(f"start-lambda/{name}.tif", picture) for name in ("first", "second"))
    [result] = invoke(lambdas, {"image": first})
    [warm] = invoke(lambdas, {"image": second})
    expected = mask_of_command_line(picture, tmp_path)
    np.testing.assert_array_equal(store.mask(result["mask"]), expected)
    np.testing.assert_array_equal(store.mask(warm["mask"]), expected)
    assert not warm["cold_start"]


def test_a_misspelt_field_is_answered_by_its_name(lambdas: Any, store: Any) -> None:
    [result] = invoke(lambdas, {"image": "s3://bucket/key.tif", "treshold": 0.5})
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "INVALID_REQUEST")
    assert "treshold" in result["error"]["message"]
