"""`cytomask web`: serve the page to view, judge and correct masks."""

import threading
import time
import webbrowser
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, MissingExtra, Parser, add_command, on_stack, port, require_extra

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.web.account import Account, LogLine

EXAMPLES = (
    "cytomask web --open                                    # the deployed stack, in the browser",
    "cytomask web --endpoint-url http://127.0.0.1:4566      # the stack of `cytomask up`",
    "cytomask web --port 8600                               # at the same address each time, for bookmarks",
)
SERVER = ("starlette", "uvicorn")
USUAL_PORT = 8617  # fixed, so that bookmarks keep working; another one if it is taken
LONGEST_END_SECONDS = 5.0
LOOK_BACK_SECONDS = 7 * 24 * 3600.0  # of a job's log lines


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "web",
        "view, judge and correct masks in the browser",
        run,
        EXAMPLES,
        description=(
            "The first line printed is the page's address with the session's token. The page is served on\n"
            "127.0.0.1 with your own AWS rights, until Ctrl-C."
        ),
        on_a_stack=True,
    )
    parser.add_argument(
        "--port", type=port, metavar="N", help=f"default: {USUAL_PORT}, or another if that is taken"
    )
    parser.add_argument("--open", action="store_true", help="open the browser")


def run(arguments: Namespace) -> int:
    """Print the page's address and serve the page until interrupted."""
    require_extra("web", *SERVER)
    return on_stack(serve)(arguments)


def serve(stack: "Stack", arguments: Namespace) -> int:
    """Serve the page for a stack; return 2 if the port is taken."""
    from cytomask.web.security import Session
    from cytomask.web.server import PortTaken, address_of, listen, make_server

    try:
        listener = listen(arguments.port, USUAL_PORT)
    except PortTaken as error:
        complain(str(error))
        return 2
    with listener:
        session = Session(listener.getsockname()[1])
        server = make_server(account_of(stack, arguments.endpoint_url), session)
        say(address_of(session))
        if arguments.open:
            webbrowser.open(address_of(session))
        server.run(sockets=[listener])
    return 0


@contextmanager
def served_beside(endpoint: str) -> Iterator[str | None]:
    """Serve the page for an emulated stack within the context; yield its address.

    The address is None if the extra `web` is not installed, because the stack is useful without the page.
    """
    try:
        require_extra("web", *SERVER)
    except MissingExtra:
        yield None
        return
    from cytomask.cli.stack import Stack
    from cytomask.web.security import Session
    from cytomask.web.server import address_of, listen, make_server

    with listen(None, USUAL_PORT) as listener:
        session = Session(listener.getsockname()[1])
        server = make_server(account_of(Stack.connect("cytomask", endpoint), endpoint), session)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield address_of(session)
        finally:
            server.should_exit = True
            thread.join(LONGEST_END_SECONDS)


def account_of(stack: "Stack", endpoint_url: str | None) -> "Account":
    """Return the parts of a stack that the page's server needs. An emulated stack takes unsigned calls."""
    import boto3  # takes half a second

    from cytomask.infra.session import emulated_api_url
    from cytomask.web.account import Account, thresholds_of
    from cytomask.web.caller import Caller

    session: Any = None if endpoint_url else boto3.Session()
    api_url = stack.api_url or ""
    return Account(
        name=stack.name,
        input_bucket=stack.input_bucket,
        output_bucket=stack.output_bucket,
        ground_truth_bucket=stack.ground_truth_bucket,
        table=stack.table,
        s3=stack.s3,
        dynamodb=stack.dynamodb,
        caller=Caller(
            emulated_api_url(endpoint_url, api_url) if endpoint_url else api_url,
            str(stack.s3.meta.region_name),
            session,
        ),
        log_lines=lambda job_id: log_lines(stack, job_id),
        redrive=lambda job_id: redrive(stack, job_id),
        thresholds=lambda: thresholds_of(stack.models().current),
    )


def log_lines(stack: "Stack", job_id: str) -> "Sequence[LogLine]":
    """Return the log lines of a job, as `cytomask logs --job` finds them."""
    from cytomask.cli.logs import lines_of_job, text_of
    from cytomask.web.account import LogLine

    since = int((time.time() - LOOK_BACK_SECONDS) * 1000)
    return [
        LogLine(line.at, line.function, str(line.fields.get("level", "")), text_of(line))
        for line in lines_of_job(stack, job_id, since)
    ]


def redrive(stack: "Stack", job_id: str) -> bool:
    """Send a job and its evaluations again, like `cytomask redrive`; return False if none of them failed."""
    from cytomask.cli.redrive import redrive_row
    from cytomask.evaluations import Evaluations
    from cytomask.jobs import Jobs
    from cytomask.table import Table

    table = Table(stack.dynamodb, stack.table)
    found = Evaluations(table).with_job(job_id)
    if found is None:
        return False
    job, evaluations = found
    jobs = Jobs(table)
    failed = [row for row in evaluations if row.evaluation_status == "FAILED"]
    sent = [redrive_row(stack, jobs, row) for row in failed]
    if job.status == "FAILED":
        sent.append(redrive_row(stack, jobs, job))
    return any(sent)
