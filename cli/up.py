"""`cytomask up`: the emulated stack, left running for boto3 or the AWS CLI."""

import argparse
import tempfile
import threading
from pathlib import Path

from cytomask.infra.emulator import emulated_stack


def run_up(arguments: argparse.Namespace) -> int:
    """Prints the endpoint, the stack's outputs and `ready`, then serves until interrupted."""
    with (
        tempfile.TemporaryDirectory(prefix="cytomask-") as folder,
        emulated_stack(Path(folder), arguments.port) as stack,
    ):
        print(stack.endpoint)
        for name, value in sorted(stack.outputs.items()):
            print(f"{name}={value}")
        print(f"log={stack.log}")
        print("ready", flush=True)
        threading.Event().wait()
    return 0
