"""Start a training job on SageMaker: `python -m cytomask.training.sagemaker_job CONFIG.yaml --data S3URI …`.

The job runs on spot instances; after an interruption it resumes from the checkpoints that it keeps in S3.
"""

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from cytomask.training.experiment import TrainingConfig
from cytomask.training.sagemaker_entry import decode

ROOT = Path(__file__).resolve().parents[1]
# What training/Dockerfile copies. The repository's .dockerignore belongs to the segment function.
CONTEXT = ("constraints.txt", "layers/cytomask/cytomask", "model", "pyproject.toml", "samples", "training")
CHECKPOINTS = "/opt/ml/checkpoints"
VOLUME_GB = 50
NAME_LENGTH = 63
# Read from the line that training.train prints after every epoch.
METRICS = ("epoch", "loss", "validation_loss", "validation_iou", "learning_rate")


class LaunchFailed(Exception):
    """The job was not started; the text says why, in one sentence for the user."""


@dataclass(frozen=True)
class EcrImage:
    """An image in a private registry of AWS, the only kind that SageMaker runs."""

    uri: str
    registry: str
    account: str
    region: str
    repository: str
    digest: str | None

    @classmethod
    def parse(cls, uri: str) -> "EcrImage":
        """Read ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY[:TAG]; argparse prints its errors."""
        found = re.fullmatch(
            r"((\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?)/([a-z0-9][a-z0-9._/-]*)"
            r"(?::[\w.-]+|@(sha256:[0-9a-f]{64}))?",
            uri,
        )
        if not found:
            raise argparse.ArgumentTypeError(
                f"{uri} is not an image in ECR: give ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG"
            )
        return cls(uri, *found.groups())


@dataclass(frozen=True)
class Job:
    """What a training job is made of; times in seconds."""

    config: TrainingConfig
    name: str
    data: str
    role: str
    output: str
    checkpoints: str
    image: EcrImage
    instance: str
    input_mode: str
    max_run: int
    max_wait: int

    def request(self) -> dict[str, Any]:
        """Return the arguments of `create_training_job`."""
        return {
            "TrainingJobName": self.name,
            "RoleArn": self.role,
            "AlgorithmSpecification": {
                "TrainingImage": self.image.uri,
                "TrainingInputMode": self.input_mode,
                "MetricDefinitions": [{"Name": name, "Regex": rf"\b{name} ([0-9.e+-]+)"} for name in METRICS],
            },
            "HyperParameters": {name: encode(value) for name, value in self.config.as_dict().items()},
            "InputDataConfig": [
                {
                    "ChannelName": "training",
                    "DataSource": {
                        "S3DataSource": {
                            "S3DataType": "S3Prefix",
                            # Without the slash, the prefix `data` would match `data2` too.
                            "S3Uri": f"{self.data}/",
                            "S3DataDistributionType": "FullyReplicated",
                        }
                    },
                }
            ],
            "OutputDataConfig": {"S3OutputPath": self.output},
            "CheckpointConfig": {"S3Uri": self.checkpoints, "LocalPath": CHECKPOINTS},
            "ResourceConfig": {
                "InstanceType": self.instance,
                "InstanceCount": 1,
                "VolumeSizeInGB": VOLUME_GB,
            },
            "EnableManagedSpotTraining": True,
            "StoppingCondition": {
                "MaxRuntimeInSeconds": self.max_run,
                "MaxWaitTimeInSeconds": self.max_wait,
            },
            "EnableNetworkIsolation": False,
            "Tags": [
                {"Key": "project", "Value": "cytomask"},
                {"Key": "experiment", "Value": self.config.name},
            ],
        }


def encode(value: Any) -> str:
    """Write a hyperparameter as text that `decode` reads back."""
    return value if isinstance(value, str) and decode(value) == value else json.dumps(value)


def job_name(experiment: str, time: datetime) -> str:
    """Name a job by experiment and second; SageMaker takes at most 63 letters, digits and hyphens."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", f"cytomask-{experiment}")
    stamp = f"{time:-%Y%m%d-%H%M%S}"
    return plain[: NAME_LENGTH - len(stamp)].strip("-") + stamp


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a job; return the exit code: 0 started, 1 failed to start, 2 wrong usage."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    max_wait = parsed.max_wait or 2 * parsed.max_run
    if max_wait < parsed.max_run:
        parser.error(f"--max-wait {max_wait} is less than --max-run {parsed.max_run}, which it includes")
    if parsed.build_and_push and parsed.image.digest:
        parser.error(f"--build-and-push needs an --image with a tag, not a digest: {parsed.image.uri}")
    try:
        config = TrainingConfig.read(parsed.config)
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        parser.error(f"{parsed.config} is not an experiment: {error}")

    name = job_name(config.name, datetime.now(UTC))
    job = Job(
        config,
        name,
        data=parsed.data,
        role=parsed.role,
        output=parsed.output,
        checkpoints=parsed.checkpoints or f"{parsed.output}/{name}/checkpoints",
        image=parsed.image,
        instance=parsed.instance,
        input_mode=parsed.input_mode,
        max_run=parsed.max_run,
        max_wait=max_wait,
    )
    if parsed.dry_run:
        print(json.dumps(job.request(), indent=1))
        return 0
    try:
        if parsed.build_and_push:
            build_and_push(job.image, parsed.build_arg, boto3.client("ecr", region_name=job.image.region))
        start(job, boto3.client("sagemaker", region_name=job.image.region))
    except (LaunchFailed, OSError, BotoCoreError, ClientError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"started {name}")
    print(f"aws sagemaker describe-training-job --region {job.image.region} --training-job-name {name}")
    print(f"weights: {job.output}/{name}/output/model.tar.gz, checkpoints: {job.checkpoints}")
    return 0


def build_and_push(image: EcrImage, build_arguments: Sequence[str], ecr: Any) -> None:
    """Build the training image and push it to its repository, which is created if missing.

    Args:
        image: the image's name.
        build_arguments: NAME=VALUE each, of training/Dockerfile.
        ecr: boto3's client.

    Raises:
        LaunchFailed: when docker is missing or fails.
        ClientError: when ECR refuses.
    """
    if not shutil.which("docker"):
        raise LaunchFailed(
            "--build-and-push needs docker, and none is on PATH: install it, or push elsewhere"
        )
    ensure_repository(image, ecr)
    [authorization] = ecr.get_authorization_token(registryIds=[image.account])["authorizationData"]
    user, _, password = base64.b64decode(authorization["authorizationToken"]).decode().partition(":")
    _docker("login", "--username", user, "--password-stdin", image.registry, stdin=password)
    build(image.uri, build_arguments)
    _docker("push", image.uri)


def build(tag: str, build_arguments: Sequence[str]) -> None:
    """Build training/Dockerfile; raise LaunchFailed if docker fails."""
    options = [option for argument in build_arguments for option in ("--build-arg", argument)]
    with tempfile.TemporaryDirectory() as context:
        for part in CONTEXT:
            target = Path(context, part)
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, target, ignore=_links_and_caches)
            else:
                shutil.copyfile(ROOT / part, target)
        _docker("build", "--file", str(ROOT / "training" / "Dockerfile"), "--tag", tag, *options, context)


def _links_and_caches(folder: str, names: list[str]) -> list[str]:
    """Name what a copied folder leaves out: its links, whose targets are copied by themselves."""
    return [name for name in names if name == "__pycache__" or Path(folder, name).is_symlink()]


def ensure_repository(image: EcrImage, ecr: Any) -> None:
    """Create the image's repository if it is missing."""
    try:
        ecr.describe_repositories(registryId=image.account, repositoryNames=[image.repository])
    except ecr.exceptions.RepositoryNotFoundException:
        ecr.create_repository(registryId=image.account, repositoryName=image.repository)


def _docker(*arguments: str, stdin: str | None = None) -> None:
    # SageMaker takes plain manifests only; attestations would turn the manifest into an index.
    environment = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    code = subprocess.run(
        ["docker", *arguments], input=stdin, text=True, env=environment, check=False
    ).returncode
    if code:
        raise LaunchFailed(f"`docker {arguments[0]}` ended with exit code {code}; see its output above")


def start(job: Job, sagemaker: Any) -> None:
    """Start the job.

    Raises:
        LaunchFailed: when there is a job of that name.
        ClientError: when SageMaker refuses for another reason.
    """
    try:
        sagemaker.create_training_job(**job.request())
    except sagemaker.exceptions.ResourceInUse:
        raise LaunchFailed(
            f"a training job {job.name} exists already; names end with the second, so start it again"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train on SageMaker.")
    parser.add_argument("config", type=Path, help="the experiment's YAML")
    parser.add_argument(
        "--data", type=s3_uri, required=True, metavar="S3URI", help="the data, as --data of training.train"
    )
    parser.add_argument("--role", type=role_arn, required=True, metavar="ARN", help="role of the job")
    parser.add_argument(
        "--output", type=s3_uri, required=True, metavar="S3URI", help="for weights and metrics"
    )
    parser.add_argument("--image", type=EcrImage.parse, required=True, metavar="URI", help="in ECR")
    parser.add_argument(
        "--build-and-push",
        action="store_true",
        help="build --image from training/Dockerfile and push it first",
    )
    parser.add_argument(
        "--build-arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="build argument of the Dockerfile; repeatable",
    )
    parser.add_argument("--instance", default="ml.g5.xlarge", metavar="TYPE", help="default: ml.g5.xlarge")
    parser.add_argument(
        "--input-mode",
        choices=("File", "FastFile"),
        default="File",
        help="copy the data first, or read it from S3 on demand; default: File",
    )
    parser.add_argument(
        "--checkpoints",
        type=s3_uri,
        metavar="S3URI",
        help="checkpoints of an earlier job, to resume from; default: OUTPUT/JOB/checkpoints",
    )
    parser.add_argument(
        "--max-run",
        type=seconds,
        default=86_400,
        metavar="SECONDS",
        help="longest training; default: 86400, a day",
    )
    parser.add_argument(
        "--max-wait",
        type=seconds,
        metavar="SECONDS",
        help="longest training with the wait for spot capacity; default: twice --max-run",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the request; call nothing")
    return parser


def s3_uri(text: str) -> str:
    """Read `s3://bucket[/prefix]`, without the slash at its end."""
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", text):
        raise argparse.ArgumentTypeError(f"{text} is not an S3 URI: give s3://BUCKET/PREFIX")
    return text.rstrip("/")


def role_arn(text: str) -> str:
    """Read the ARN of an IAM role."""
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", text):
        raise argparse.ArgumentTypeError(f"{text} is not a role: give arn:aws:iam::ACCOUNT:role/NAME")
    return text


def seconds(text: str) -> int:
    """Read a positive whole number."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
