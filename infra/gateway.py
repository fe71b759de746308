"""Serve ministack, the AWS emulator, on an inherited socket: `python -m cytomask.infra.gateway FD`."""

import asyncio
import importlib
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

from cytomask.infra.children import end_with_parent


def main() -> None:
    """Serve until the parent ends; keep all state in memory."""
    end_with_parent()
    config = Config()
    config.bind = [f"fd://{sys.argv[1]}"]
    config.keep_alive_timeout = 75  # the value of ministack's own command; boto3 keeps connections open
    asyncio.run(serve(importlib.import_module("ministack.app").app, config))


if __name__ == "__main__":
    main()
