"""`sam deploy` to the emulated account, then the whole path: upload, notification, queue, container, mask."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from account import LOOPBACK
from conftest import Store
from ecr import login_to
from page_client import served_page
from tools import BASE_IMAGE, BUILT, SAM, mask_of_command_line, run

from cytomask.infra.session import REGION

STACK = "cytomask-deployed"
ARTEFACTS = "artefacts"
SOMEONE_ELSE = "111111111111"
# Attempts follow each other fast, but the function has time to start on a busy machine.
PARAMETERS = {
    "SegmentTimeout": "100",
    "VisibilityTimeout": "100",
    "MaxReceiveCount": "2",
    "RetryDelay": "1",
    "LogRetentionDays": "1",
    "AllowedBuckets": "private",
}
PATIENCE_SECONDS = 300
IMAGE_OF_ZIPS = "public.ecr.aws/lambda/python:3.13"  # ministack runs zips in it; the stand-in serves for it


@pytest.fixture(scope="module")
def deployed(account: Any, built: Any) -> Iterator[Store]:
    account.client("s3").create_bucket(
        Bucket=ARTEFACTS, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    account.client("ecr").create_repository(repositoryName="cytomask")
    run("docker", "tag", BASE_IMAGE, IMAGE_OF_ZIPS)
    registry = f"{LOOPBACK}:{account.port}"
    parameters = PARAMETERS | {"EndpointUrl": account.endpoint}
    with login_to(registry) as ecr:
        run(
            *(SAM, "deploy", "--template", BUILT / "template.yaml", "--stack-name", STACK),
            *(
                "--s3-bucket",
                ARTEFACTS,
                "--image-repository",
                f"{registry}/cytomask",
                "--no-confirm-changeset",
            ),
            *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
            *("--parameter-overrides", *(f"{name}={value}" for name, value in parameters.items())),
            AWS_ENDPOINT_URL=account.endpoint,
            AWS_ENDPOINT_URL_ECR=ecr,
        )
    set_poller(account, enabled=True)
    [stack] = account.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    yield Store(account, {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]})
    pushed = run(
        "docker", "images", "--format={{.Repository}}:{{.Tag}}", f"{registry}/cytomask"
    ).stdout.split()
    run("docker", "rmi", *pushed, IMAGE_OF_ZIPS)


def set_poller(account: Any, enabled: Any) -> None:
    """Open or close the queues; a number for the poller, which fails on the text that ministack keeps.

    Dead letters stay where they are, for a test to see them. What becomes of them is tested with moto and on
    the emulated stack.
    """
    lambdas = account.client("lambda")
    for mapping in lambdas.list_event_source_mappings()["EventSourceMappings"]:
        most = int(mapping["ScalingConfig"]["MaximumConcurrency"])
        lambdas.update_event_source_mapping(
            UUID=mapping["UUID"],
            Enabled=enabled and not mapping["EventSourceArn"].endswith("-dlq"),
            ScalingConfig={"MaximumConcurrency": most},
        )


def wait_for(found: Any) -> Any:
    """Call `found` until it returns something true; return that."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := found()):
        assert time.monotonic() < deadline, f"{found} found nothing in {PATIENCE_SECONDS} s"
        time.sleep(0.5)
    return result


def finished(store: Any, image: Any) -> Any:
    return [job for job in store.jobs(image) if job["status"] in ("SUCCEEDED", "REJECTED", "FAILED")]


def test_the_outputs_name_what_the_command_line_looks_for(deployed: Store) -> None:
    needed = {"InputBucketName", "OutputBucketName", "GroundTruthBucketName", "SegmentQueueUrl"}
    assert needed | {"EvaluationQueueUrl", "JobsTableName"} <= set(deployed.outputs)


def test_an_upload_becomes_a_mask_and_a_job_by_the_container_that_was_deployed(
    deployed: Store, account: Any, pictures: Any, tmp_path: Path
) -> None:
    key, picture = next(iter(pictures.items()))
    image = deployed.upload(key, picture)
    [job] = wait_for(lambda: finished(deployed, image))
    assert (job["status"], job["attempt"]) == ("SUCCEEDED", 1)
    assert job["mask"] == f"s3://{deployed.outputs['OutputBucketName']}/{key}.mask.png"
    np.testing.assert_array_equal(deployed.mask(job["mask"]), mask_of_command_line(picture, tmp_path))
    assert f"{LOOPBACK}:{account.port}/cytomask" in run("docker", "ps", "--format={{.Image}}").stdout
    command = Path(sys.executable).with_name("cytomask")
    listed = run(command, "jobs", job["job_id"], "--stack", STACK, "--endpoint-url", account.endpoint).stdout
    assert image in listed and "SUCCEEDED" in listed


def test_a_broken_message_is_rejected_and_a_failing_one_ends_in_the_dead_letter_queue(
    deployed: Store, account: Any, tmp_path: Path
) -> None:
    foreign = boto3.client(
        "s3",
        endpoint_url=account.endpoint,
        region_name=REGION,
        aws_access_key_id=SOMEONE_ELSE,
        aws_secret_access_key="test",
    )
    foreign.create_bucket(Bucket="private", CreateBucketConfiguration={"LocationConstraint": REGION})
    foreign.put_object(Bucket="private", Key="image.tif", Body=b"II*\0")
    (tmp_path / "broken.tif").write_bytes(b"II*\0 and nothing else")
    deployed.account.client("s3").upload_file(
        str(tmp_path / "broken.tif"), deployed.outputs["GroundTruthBucketName"], "broken.tif"
    )
    broken = f"s3://{deployed.outputs['GroundTruthBucketName']}/broken.tif"
    sqs = account.client("sqs")
    set_poller(account, enabled=False)  # so that both come in one batch
    sqs.send_message_batch(
        QueueUrl=deployed.outputs["SegmentQueueUrl"],
        Entries=[
            {"Id": str(index), "MessageBody": json.dumps({"image": image})}
            for index, image in enumerate((broken, "s3://private/image.tif"))
        ],
    )
    set_poller(account, enabled=True)
    [job] = wait_for(lambda: finished(deployed, broken))
    assert (job["status"], job["error_code"]) == ("REJECTED", "UNREADABLE_IMAGE")
    dead = wait_for(
        lambda: sqs.receive_message(QueueUrl=deployed.outputs["SegmentDLQUrl"], WaitTimeSeconds=5).get(
            "Messages"
        )
    )
    assert [json.loads(message["Body"]) for message in dead] == [{"image": "s3://private/image.tif"}]


def test_the_page_sends_an_image_corrects_its_mask_and_sees_the_score(
    deployed: Store, account: Any, pictures: Any
) -> None:
    picture = next(iter(pictures.values()))
    with served_page(STACK, account.endpoint) as page:
        page.upload("page/circle.tif", picture.read_bytes())
        job = wait_for(lambda: page.finished("page/circle.tif"))
        assert job["status"] == "SUCCEEDED"
        cells = page.tile(job["id"], "mask")
        assert 0 < (cells > 0).mean() < 1
        cells[: len(cells) // 4] = 0  # a person erases the top of the mask
        saved = page.save(job["id"], cells > 0)
        assert saved["uri"] == f"s3://{deployed.outputs['GroundTruthBucketName']}/page/circle.tif.png"
        iou = wait_for(lambda: page.score(job["id"]))
    mask = deployed.mask(f"s3://{deployed.outputs['OutputBucketName']}/page/circle.tif.mask.png") > 0
    truth = deployed.mask(saved["uri"]) > 0
    assert iou == pytest.approx((mask & truth).sum() / (mask | truth).sum(), abs=1e-4)
