"""`sam local start-lambda`: the function behind Lambda's own API, for boto3."""

import json
import os
import signal
import subprocess

import boto3
import numpy as np
import pytest
from account import LOOPBACK, free_port
from botocore.config import Config
from tools import ENVIRONMENT, PATIENCE_SECONDS, ROOT, SAM, mask_of_command_line, wait_for_port

from infra import emulator


@pytest.fixture(scope="module")
def lambdas(built, environment_file, tmp_path_factory):
    """A boto3 client of Lambda as sam plays it."""
    port = free_port(LOOPBACK)
    log = tmp_path_factory.mktemp("start-lambda") / "log"
    options = [
        "--env-vars",
        environment_file,
        "--skip-pull-image",
        "--warm-containers",
        "LAZY",
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [SAM, "local", "start-lambda", *options],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for_port(port)
        yield boto3.client(
            "lambda",
            endpoint_url=f"http://{LOOPBACK}:{port}",
            region_name=emulator.REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(read_timeout=PATIENCE_SECONDS, retries={"total_max_attempts": 1}, proxies={}),
        )
    finally:
        os.kill(process.pid, signal.SIGINT)  # upon which it removes its container
        process.wait(timeout=60)


def invoke(lambdas, event):
    answer = lambdas.invoke(FunctionName="SegmentFunction", Payload=json.dumps(event).encode())
    assert answer["StatusCode"] == 200
    return json.loads(answer["Payload"].read())


def test_boto3_gets_the_results_and_the_masks_are_there(lambdas, store, pictures, tmp_path):
    picture = next(iter(pictures.values()))
    first, second = (store.upload(f"start-lambda/{name}.tif", picture) for name in ("first", "second"))
    [result] = invoke(lambdas, {"image": first})
    [warm] = invoke(lambdas, {"image": second})
    expected = mask_of_command_line(picture, tmp_path)
    np.testing.assert_array_equal(store.mask(result["mask"]), expected)
    np.testing.assert_array_equal(store.mask(warm["mask"]), expected)
    assert not warm["cold_start"]


def test_a_misspelt_field_is_answered_by_its_name(lambdas, store):
    [result] = invoke(lambdas, {"image": "s3://bucket/key.tif", "treshold": 0.5})
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "INVALID_REQUEST")
    assert "treshold" in result["error"]["message"]
