"""How clients reach an emulated account: dummy credentials, nothing of the user's AWS settings or proxies."""

import os
from types import MappingProxyType
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

REGION = "eu-central-1"
CREDENTIALS = MappingProxyType({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"})


def client(service: str, endpoint: str) -> Any:
    """A boto3 client of the service that the emulator at `endpoint` offers."""
    session = boto3.Session(
        botocore_session=botocore.session.Session(
            {
                "config_file": (None, None, os.devnull, None),
                "credentials_file": (None, None, os.devnull, None),
                "profile": (None, None, None, None),
            }
        ),
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    make: Any = session.client  # typed by literal names only
    return make(service, endpoint_url=endpoint, config=Config(proxies={}))
