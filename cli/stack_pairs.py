"""Fetch the corrected pages of a stack: images with their newest ground truths, for `cytomask finetune`."""

import zipfile
from argparse import Namespace
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from cytomask.cli.console import complain
from cytomask.cli.options import require_extra
from cytomask.cli.rows import Search
from cytomask.cli.stack import Stack, StackNotFound, refusal
from cytomask.truths.pairs import PairsError


def fetch_pairs(arguments: Namespace, archive: Path) -> Path:
    """Fetch the pairs that the web page's download has, into a zip file; return it.

    Args:
        arguments: `stack`, `endpoint_url`, `group` and `since` choose the jobs.
        archive: where to write.

    Raises:
        PairsError: the stack cannot be reached, or it has no image with a ground truth.
    """
    require_extra("web", "starlette")
    from cytomask.cli.web import account_of  # what the page's download needs
    from cytomask.web.cache import Cache
    from cytomask.web.downloads import MISSING, Archive
    from cytomask.web.library import Library

    try:
        stack = Stack.connect(arguments.stack, arguments.endpoint_url)
    except StackNotFound as error:
        raise PairsError(str(error)) from error
    account = account_of(stack, arguments.endpoint_url)
    search = Search(status="SUCCEEDED", group=arguments.group, since=arguments.since)
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        ids = [row.job_id for row in stack.rows.jobs(search)]
        with archive.open("wb") as file:
            for piece in Archive(account, Library(account, Cache(0))).pairs(ids):
                file.write(piece)
    except ClientError as error:
        raise PairsError(refusal(error)) from error
    except BotoCoreError as error:
        raise PairsError(f"the stack {stack.name} does not answer: {error}") from error
    with zipfile.ZipFile(archive) as opened:
        files = opened.namelist()
        for line in opened.read(MISSING).decode().splitlines() if MISSING in files else ():
            complain(f"left out: {line}")
        if not any(name.startswith("images/") for name in files):
            jobs = f"{len(ids)} jobs with a mask" if ids else "no job with a mask"
            raise PairsError(
                f"the stack {stack.name} has {jobs} for this, and none has a ground truth; correct masks in "
                "`cytomask web`, or upload ground truths"
            )
    return archive
