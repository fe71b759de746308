"""A handler for the emulator's tests: prints each event, and fails if a body says `fail`."""

import json
import os
from typing import Any

UNREADABLE = "(?P<well>unreadable)"
if os.environ.get("NAME_PATTERN") == UNREADABLE:
    raise ValueError("this environment has an unreadable pattern")


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    remaining = context.get_remaining_time_in_millis()
    name = context.function_name
    print(json.dumps({"message": "invoked", "event": event, "function_name": name}))
    if "raise" in event:
        raise ValueError(event["raise"])
    if "Records" not in event:
        return {
            "function_name": context.function_name,
            "arn": context.invoked_function_arn,
            "memory_mb": context.memory_limit_in_mb,
            "remaining_ms": remaining,
            "process": os.getpid(),
            "environment": dict(os.environ),
        }
    failed = [record["messageId"] for record in event["Records"] if "fail" in record["body"]]
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}
