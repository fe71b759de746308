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
    made_up = {field.encode_name: "1" for field in msgspec.structs.fields(Settings) if field.required}
    os.environ |= made_up | {"OUTPUT_BUCKET": "2", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008"}
    for name in names:
        importlib.import_module(f"functions.{name}.app")


if __name__ == "__main__":
    main(sys.argv[1:])
