"""`cytomask demo`: send images all the way through the emulated stack."""

import tempfile
import threading
from argparse import Namespace
from pathlib import Path

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, require_extra
from cytomask.cli.up import EMULATOR

EXAMPLES = (
    "cytomask demo                                          # generated samples; `make run` calls this",
    "cytomask demo a.tif plate/ --out out                   # images of your own, and nothing else",
    "cytomask demo --web                                    # then judge and correct them on the page",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "demo",
        "send images through the emulated stack and show the results",
        run,
        EXAMPLES,
        description="Starts the emulated stack, uploads images, waits for their masks, and stops the stack.\n"
        "Writes masks, overlays and one HTML page. Needs no AWS account.",
    )
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="files or folders; default: generated samples"
    )
    parser.add_argument(
        "--web", action="store_true", help="then keep the stack running and serve the page, until Ctrl-C"
    )
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: out")


def run(arguments: Namespace) -> int:
    """Run the demo; return 1 if an image did not end as expected, 2 if the demo could not start."""
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
            then = serve_page if arguments.web else None
            return demonstrate(arguments.images, arguments.out, Path(folder), then)
    except (ChildFailed, StackFailed) as error:
        for line in str(error).splitlines():
            complain(line)
    except OSError as error:
        complain(f"{error.filename or arguments.out} cannot be written: {error.strerror or error}")
    return 2


def serve_page(endpoint: str) -> None:
    """Serve the web page with the demo's results until interrupted."""
    from cytomask.cli.web import served_beside

    with served_beside(endpoint) as address:
        if address is None:
            complain("the page needs the extra `web`: pip install 'cytomask[web]'")
            return
        say(f"correct   {address}   <- open this in a browser; Ctrl-C ends it")
        threading.Event().wait()
