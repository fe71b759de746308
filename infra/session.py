"""Clients of an emulated account: dummy credentials, and none of the user's AWS or proxy settings."""

import os
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config

REGION: Final = "eu-central-1"
CREDENTIALS = MappingProxyType({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"})


def client(service: str, endpoint: str) -> Any:
    """Make a boto3 client for a service of the emulator at `endpoint`."""
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
    # An emulator on this computer answers at once, or is not there.
    config = Config(proxies={}, retries={"mode": "standard", "total_max_attempts": 2})
    make: Any = session.client  # boto3-stubs types it for literal service names only
    return make(service, endpoint_url=endpoint, config=config)


def emulated_api_url(endpoint: str, api_url: str) -> str:
    """Turn the stack's output `ApiUrl`, an address on AWS, into the emulator's address of the same API."""
    api_id = (urlsplit(api_url).hostname or "").partition(".")[0]
    return f"{endpoint.rstrip('/')}/_aws/execute-api/{api_id}/$default"


def function_environment(lambdas: Any, endpoint: str, name: str) -> dict[str, str]:
    """Return the environment variables Lambda would set for a function, plus those to reach the emulator."""
    configuration = lambdas.get_function_configuration(FunctionName=name)
    return {
        **configuration["Environment"]["Variables"],
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configuration["MemorySize"]),
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(configuration["Timeout"]),
    }
