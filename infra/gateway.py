"""Serve ministack, the AWS emulator, on an inherited socket: `python -m cytomask.infra.gateway FD`."""

import asyncio
import importlib
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

from cytomask.infra.children import end_with_parent


def main() -> None:
    """Serves until the parent ends; everything is kept in memory."""
    end_with_parent()
    config = Config()
    config.bind = [f"fd://{sys.argv[1]}"]
    config.keep_alive_timeout = 75  # as ministack's own command has it: boto3 keeps its connections
    asyncio.run(serve(importlib.import_module("ministack.app").app, config))


if __name__ == "__main__":
    main()
