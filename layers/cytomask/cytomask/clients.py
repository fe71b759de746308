"""Timeouts and retries of the functions' boto3 clients: together less than half of an invocation's time."""

from botocore.config import Config

CLIENTS = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})
