"""Timeouts and retries of the functions' boto3 clients: well within an invocation's time."""

from botocore.config import Config

CLIENTS = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 3})
