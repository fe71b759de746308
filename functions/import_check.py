"""Import the handlers as a cold start does: `python -m functions.import_check NAME…`, while they are built.

A library that does not load on Lambda's base, or a file that the build left out, ends the build here. Nothing
is called: the handlers only make clients.
"""

import importlib
import os
import sys

import msgspec

from cytomask.settings import Settings


def main(names: list[str]) -> None:
    """Import the handlers of these functions, in a made-up environment."""
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "POWERTOOLS_METRICS_NAMESPACE": "import-check"}
    for field in msgspec.structs.fields(Settings):
        os.environ[field.encode_name] = "1" if field.required else ""
    os.environ["OUTPUT_BUCKET"] = "2"  # which must not be an input
    for name in names:
        importlib.import_module(f"functions.{name}.app")


if __name__ == "__main__":
    main(sys.argv[1:])
