"""The segment function for the queue benchmark, which also logs its memory."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from cytomask.functions.segment.app import handler


def measured(event: Any, context: Any) -> Any:
    """Answer as the function does, and log the invocation's time and the process's memory."""
    started = time.time()
    answer = handler(event, context)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    line = {
        "message": "invocation_measured",
        "process": os.getpid(),
        "started": started,
        "ended": time.time(),
        "images": sum("s3:TestEvent" not in record["body"] for record in event["Records"]),
        "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    return answer
