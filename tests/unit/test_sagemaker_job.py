"""The launcher's calls to SageMaker, ECR and docker, and its errors when one refuses."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.stub import Stubber
from botocore.validate import ParamValidator
from moto import mock_aws

from cytomask.training.experiment import TrainingConfig
from cytomask.training.sagemaker_entry import decode
from cytomask.training.sagemaker_job import ROOT, EcrImage, encode, job_name, main

REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
IMAGE = f"{REGISTRY}/cytomask/training:v1"
ROLE = "arn:aws:iam::123456789012:role/service-role/training"
EXPERIMENT = """
train: {livecell/train: 1, "pairs:my images:my masks": 0.5}
validation: [livecell_like/val]
hold_out: [A172_Phase_C7_1_00d00h00m_1]
epochs: 3
learning_rate: 1.0e-6
augmentation: {zoom: [0.75, 1.5]}
"""
EPOCH = "epoch 3/100 step 120 loss 0.4321 validation_loss 0.4100 validation_iou 0.8123 learning_rate 1.00e-03"
DOCKER = """#!/bin/sh
echo "docker $*" >> "$0.log"
case $1 in
    login) cat >> "$0.stdin" ;;
    build) for context; do :; done; ls "$context" "$context/training" > "$0.context" ;;
esac
[ "$1" != "$DOCKER_FAILS_AT" ]
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "small experiment_2.yaml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use moto instead of AWS; only the image's URI gives the region."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a `docker` that only records its arguments, its standard input and the build's context."""
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(DOCKER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def launch(experiment: Path, *more: str, **changed: str) -> int:
    given = {
        "data": "s3://data/livecell/",
        "role": ROLE,
        "output": "s3://results/jobs",
        "image": IMAGE,
    } | changed
    return main([str(experiment), *more, *(f"--{name}={value}" for name, value in given.items())])


def dry_run(experiment: Path, capsys: pytest.CaptureFixture[str], *more: str, **changed: str) -> Any:
    assert launch(experiment, "--dry-run", *more, **changed) == 0
    return json.loads(capsys.readouterr().out)


def client(service: str) -> Any:
    return boto3.client(service, region_name="eu-central-1")  # type: ignore[call-overload]


def test_a_training_request_has_every_field(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = dry_run(experiment, capsys)
    name = request.pop("TrainingJobName")
    assert re.fullmatch(r"cytomask-small-experiment-2-\d{8}-\d{6}", name)
    assert request.pop("HyperParameters")["epochs"] == "3"
    metrics = request["AlgorithmSpecification"].pop("MetricDefinitions")
    assert len(metrics) == 5
    assert request == {
        "RoleArn": ROLE,
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File"},
        "InputDataConfig": [
            {
                "ChannelName": "training",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": "s3://data/livecell/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "OutputDataConfig": {"S3OutputPath": "s3://results/jobs"},
        "CheckpointConfig": {
            "S3Uri": f"s3://results/jobs/{name}/checkpoints",
            "LocalPath": "/opt/ml/checkpoints",
        },
        "ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 50},
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 86400, "MaxWaitTimeInSeconds": 172800},
        "EnableNetworkIsolation": False,
        "Tags": [
            {"Key": "project", "Value": "cytomask"},
            {"Key": "experiment", "Value": "small experiment_2"},
        ],
    }


def test_options_change_the_training_request(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = dry_run(
        experiment,
        capsys,
        "--input-mode=FastFile",
        "--instance=ml.g6.2xlarge",
        "--max-run=3600",
        "--max-wait=3600",
        "--checkpoints=s3://results/old/checkpoints/",
    )
    assert request["AlgorithmSpecification"]["TrainingInputMode"] == "FastFile"
    assert request["ResourceConfig"]["InstanceType"] == "ml.g6.2xlarge"
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600}
    assert request["CheckpointConfig"]["S3Uri"] == "s3://results/old/checkpoints"


def test_a_dry_run_calls_nothing(
    experiment: Path, docker: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boto3.client", None)
    dry_run(experiment, capsys, "--build-and-push")
    assert not docker.with_name("docker.log").exists()


def constraints_broken(value: Any, shape: Any) -> list[str]:
    """List where a request breaks the lengths, patterns and enums of botocore's service model."""
    if shape.type_name == "structure":
        return [
            fault for name, part in value.items() for fault in constraints_broken(part, shape.members[name])
        ]
    if shape.type_name == "list":
        return [fault for part in value for fault in constraints_broken(part, shape.member)]
    if shape.type_name == "map":
        parts = [(name, shape.key) for name in value] + [(part, shape.value) for part in value.values()]
        return [fault for part, of in parts for fault in constraints_broken(part, of)]
    rules = shape.metadata
    # Python's `re` does not support these names of character classes.
    pattern = rules.get("pattern", ".*").replace(r"\p{L}\p{Z}\p{N}", r"\w\s")
    held = (
        shape.type_name != "string"
        or (
            len(value) <= rules.get("max", len(value))
            and re.fullmatch(pattern, value, re.DOTALL)
            and value in rules.get("enum", [value])
        )
    )  # fmt: skip
    return [] if held else [f"{shape.name}: {value}"]


def test_the_request_keeps_to_the_service_model(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = dry_run(experiment, capsys)
    model = botocore.session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    assert shape is not None
    assert ParamValidator().validate(request, shape).has_errors() is False
    assert constraints_broken(request, shape) == []
    assert constraints_broken(request | {"RoleArn": "me"}, shape) == ["RoleArn: me"]


def test_the_metrics_are_found_in_the_line_of_an_epoch(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = dry_run(experiment, capsys)
    metrics = request["AlgorithmSpecification"]["MetricDefinitions"]
    found = {metric["Name"]: re.findall(metric["Regex"], EPOCH) for metric in metrics}
    assert found == {
        "epoch": ["3"],
        "loss": ["0.4321"],
        "validation_loss": ["0.4100"],
        "validation_iou": ["0.8123"],
        "learning_rate": ["1.00e-03"],
    }


def test_the_hyperparameters_are_texts_that_make_the_experiment_again(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = dry_run(experiment, capsys)["HyperParameters"]
    assert all(isinstance(text, str) for text in texts.values())
    assert (texts["network"], texts["learning_rate"]) == ("swin_unet", "1e-06")
    assert texts["train"] == '{"livecell/train": 1.0, "pairs:my images:my masks": 0.5}'
    values = {name: decode(text) for name, text in texts.items()}
    assert TrainingConfig.from_dict(values.pop("name"), values) == TrainingConfig.read(experiment)


@pytest.mark.parametrize("value", ["plain", "2026", "true", "null", '"quoted"', "NaN", "", 1e-6, None, [0.5]])
def test_every_value_survives_its_text(value: Any) -> None:
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("ours", "cytomask-ours-20261123-195501"),
        ("größe_2..x", "cytomask-gr-e-2-x-20261123-195501"),
        ("a" * 80, f"cytomask-{'a' * 38}-20261123-195501"),
        (f"{'a' * 37}_b", f"cytomask-{'a' * 37}-20261123-195501"),
    ],
)
def test_a_job_is_named_by_experiment_and_second(experiment: str, expected: str) -> None:
    assert job_name(experiment, datetime(2026, 11, 23, 19, 55, 1, tzinfo=UTC)) == expected
    assert len(expected) <= 63


def test_a_job_is_started_in_the_images_region(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(experiment) == 0
    [started, command, places] = capsys.readouterr().out.splitlines()
    name = started.removeprefix("started ")
    job = client("sagemaker").describe_training_job(TrainingJobName=name)
    assert job["HyperParameters"]["epochs"] == "3"
    assert job["EnableManagedSpotTraining"] is True
    assert f"--region eu-central-1 --training-job-name {name}" in command
    assert f"s3://results/jobs/{name}/output/model.tar.gz" in places


def test_the_image_is_built_and_pushed_to_a_repository_that_is_made(experiment: Path, docker: Path) -> None:
    assert launch(experiment, "--build-and-push", "--build-arg=BASE=mine:1") == 0
    [repository] = client("ecr").describe_repositories()["repositories"]
    assert repository["repositoryName"] == "cytomask/training"
    login, build, push = docker.with_name("docker.log").read_text().splitlines()
    assert login == f"docker login --username AWS --password-stdin {REGISTRY}"
    assert docker.with_name("docker.stdin").read_text() == "123456789012-auth-token"
    dockerfile = ROOT / "training" / "Dockerfile"
    assert build.startswith(f"docker build --file {dockerfile} --tag {IMAGE} --build-arg BASE=mine:1 /")
    assert push == f"docker push {IMAGE}"
    assert len(client("sagemaker").list_training_jobs()["TrainingJobSummaries"]) == 1


def test_the_builds_context_holds_what_the_dockerfile_copies(experiment: Path, docker: Path) -> None:
    assert launch(experiment, "--build-and-push") == 0
    context = docker.with_name("docker.context").read_text().split()
    assert {"constraints.txt", "layers", "model", "pyproject.toml", "training", "train.py"} <= set(context)
    assert not {"tests", "functions", "cli", "__pycache__"} & set(context)


def test_a_repository_that_is_there_is_used(experiment: Path, docker: Path) -> None:
    client("ecr").create_repository(repositoryName="cytomask/training")
    assert launch(experiment, "--build-and-push") == 0
    assert len(client("ecr").describe_repositories()["repositories"]) == 1


def no_jobs() -> bool:
    return not client("sagemaker").list_training_jobs()["TrainingJobSummaries"]


def test_without_docker_nothing_is_made(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert launch(experiment, "--build-and-push") == 1
    assert "needs docker, and none is on PATH" in capsys.readouterr().err
    assert client("ecr").describe_repositories()["repositories"] == []
    assert no_jobs()


@pytest.mark.parametrize("step", ["login", "build", "push"])
def test_no_job_is_started_when_docker_fails(
    step: str,
    experiment: Path,
    docker: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_FAILS_AT", step)
    assert launch(experiment, "--build-and-push") == 1
    assert capsys.readouterr().err.startswith(f"`docker {step}` ended with exit code 1")
    assert no_jobs()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("ResourceInUse", "a training job cytomask-small-experiment-2-"),
        ("ResourceLimitExceeded", "The account-level service limit is 0"),
    ],
)
def test_a_sagemaker_refusal_becomes_a_sentence(
    code: str,
    said: str,
    experiment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refusing = client("sagemaker")
    monkeypatch.setattr("boto3.client", lambda *_, **__: refusing)
    with Stubber(refusing) as stub:
        stub.add_client_error("create_training_job", code, "The account-level service limit is 0")
        assert launch(experiment) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_missing_credentials_are_reported_in_a_sentence(
    experiment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = botocore.session.Session()
    nobody.get_component("credential_provider").providers.clear()
    made = nobody.create_client("sagemaker", region_name="eu-central-1")
    monkeypatch.setattr("boto3.client", lambda *_, **__: made)
    assert launch(experiment) == 1
    assert capsys.readouterr().err == "Unable to locate credentials\n"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": "data/livecell"}, "--data: data/livecell is not an S3 URI: give s3://BUCKET/PREFIX"),
        ({"output": "s3://My_Bucket/x"}, "--output: s3://My_Bucket/x is not an S3 URI"),
        ({"role": "training"}, "--role: training is not a role: give arn:aws:iam::ACCOUNT:role/NAME"),
        ({"role": "arn:aws:iam::123456789012:user/me"}, "is not a role"),
        ({"image": "cytomask:latest"}, "--image: cytomask:latest is not an image in ECR"),
        ({"max-run": "0"}, "--max-run: 0 is not positive"),
        ({"max-run": "60", "max-wait": "59"}, "--max-wait 59 is less than --max-run 60"),
    ],
)
def test_wrong_usage_is_named(
    changed: dict[str, str], said: str, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(experiment, **changed)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_image_digest_cannot_be_used_with_build(
    experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = f"{REGISTRY}/training@sha256:{'0' * 64}"
    assert dry_run(experiment, capsys, image=digest)["AlgorithmSpecification"]["TrainingImage"] == digest
    with pytest.raises(SystemExit):
        launch(experiment, "--build-and-push", image=digest)
    assert "needs an --image with a tag" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"), [("epochs: 3\nstepps: 8", "stepps"), ("", "experiment"), ("a: [", "line 1")]
)
def test_a_bad_experiment_is_refused_before_any_aws_call(
    text: str, said: str, experiment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment.write_text(text)
    with pytest.raises(SystemExit) as ended:
        launch(experiment)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert no_jobs()


def test_an_image_in_china_is_in_ecr_too() -> None:
    image = EcrImage.parse("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/training")
    assert (image.region, image.repository, image.digest) == ("cn-north-1", "training", None)
