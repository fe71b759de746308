"""`cytomask demo`: the whole way of an image through the emulated stack."""

import tempfile
from argparse import Namespace
from pathlib import Path

from cytomask.cli.console import complain
from cytomask.cli.options import Commands, Parser, add_command, require_extra
from cytomask.cli.up import EMULATOR

EXAMPLES = (
    "cytomask demo                                          # generated samples; `make run` calls this",
    "cytomask demo a.tif plate/ --out out                   # images of your own, and nothing else",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "demo",
        "send images through the emulated stack and show what comes out",
        run,
        EXAMPLES,
        description="Starts the emulated stack, uploads images, waits for their masks, and stops the stack.\n"
        "Writes masks, overlays and one HTML page. Needs no AWS account.",
    )
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="files or folders; default: generated samples"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")


def run(arguments: Namespace) -> int:
    """Run the demo; 1 if an image did not end as it should, 2 if nothing could be begun."""
    require_extra("local", *EMULATOR, "jinja2")
    missing = [str(path) for path in arguments.images if not path.exists()]
    if missing:
        complain(f"no such file: {', '.join(missing)}")
        return 2
    from cytomask.cli.demonstration import demonstrate  # needs the extra `local`
    from cytomask.infra.children import ChildFailed
    from cytomask.infra.emulator import StackFailed

    try:
        with tempfile.TemporaryDirectory(prefix="cytomask-") as folder:
            return demonstrate(arguments.images, arguments.out, Path(folder))
    except (ChildFailed, StackFailed) as error:
        for line in str(error).splitlines():
            complain(line)
    except OSError as error:
        complain(f"{error.filename or arguments.out} cannot be written: {error.strerror or error}")
    return 2
