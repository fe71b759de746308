"""The emulated account and the built image, shared by all e2e tests."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import account as accounts
import numpy as np
import pytest
from account import Account
from boto3.dynamodb.types import TypeDeserializer
from numpy.typing import NDArray
from tools import BASE_IMAGE, BUILT, SAM, pixels, run


@dataclass(frozen=True)
class Store:
    """A stack's buckets, queues and jobs, found through its outputs as a user finds them."""

    account: Account
    outputs: dict[str, str]

    def upload(self, key: str, file: Path) -> str:
        """Upload a file to the input bucket; return its URI."""
        bucket = self.outputs["InputBucketName"]
        self.account.client("s3").upload_file(str(file), bucket, key)
        return f"s3://{bucket}/{key}"

    def jobs(self, image: str) -> list[dict[str, Any]]:
        """Find the job rows of an image."""
        table = self.account.client("dynamodb").scan(
            TableName=self.outputs["JobsTableName"], ConsistentRead=True
        )
        plain = TypeDeserializer().deserialize
        rows = [{name: plain(value) for name, value in item.items()} for item in table["Items"]]
        return [row for row in rows if row["record"] == "JOB" and row.get("image") == image]

    def mask(self, uri: str) -> NDArray[np.uint8]:
        """Read the pixels of a mask: (H, W) uint8."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return pixels(io.BytesIO(self.account.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()))


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with accounts.emulated_account(tmp_path_factory.mktemp("account")) as running:
        yield running


@pytest.fixture(scope="session")
def store(account: Account) -> Store:
    """Create the stack without functions, so that only the tests' own invocations touch it."""
    return Store(account, accounts.create_storage(account))


@pytest.fixture(scope="session")
def pictures(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Upload a picture for each key in tests/events."""
    return accounts.upload_pictures(store.account, store.outputs, tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def environment(store: Store) -> dict[str, str]:
    return accounts.function_environment(store.account, store.outputs)


@pytest.fixture(scope="session")
def environment_file(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("environment") / "environment.json"
    path.write_text(json.dumps({"Parameters": environment}))
    return path


@pytest.fixture(scope="session")
def built() -> Path:
    """Run `sam build` on the substitute base image; return the folder with the built template."""
    run(SAM, "build", "--parameter-overrides", f"BaseImage={BASE_IMAGE}")
    return BUILT
