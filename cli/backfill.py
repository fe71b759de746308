"""`cytomask backfill`: segment the images that are already in a bucket."""

import hashlib
import json
import math
import os
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.costs import OTHER_USD
from cytomask.cli.files import count_of
from cytomask.cli.options import Commands, Parser, add_command, count, moment, on_stack

if TYPE_CHECKING:
    from cytomask.backfill import Listed, Wanted
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask backfill s3://lab-images/2025/ --dry-run      # how many, how long, how much",
    "cytomask backfill s3://lab-images/2025/ --match '*_Ph.tif' --max-usd 20",
    "cytomask backfill s3://lab-images --inventory s3://lab-inventory/…/manifest.json",
)
TYPICAL_SECONDS, TYPICAL_USD = 0.10, 0.0000049  # per 704x520 image, for a stack that has no finished jobs
LOOKED_AT = 50  # finished jobs from which time and cost are estimated
DEFAULT_CONCURRENCY = 6


@dataclass(frozen=True)
class Pace:
    """Time and cost of an image on this stack. `at_a_time` is the number of images segmented in parallel."""

    seconds: float
    usd: float
    at_a_time: int

    def hours(self, images: int, rate: float | None) -> float:
        """Return how long this many images take; a slow rate of sending may decide."""
        working = images * self.seconds / self.at_a_time
        return max(working, images / rate if rate else 0.0) / 3600


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "backfill",
        "segment the images that are already in a bucket",
        on_stack(run_backfill),
        EXAMPLES,
        description="Sends a message for each image without a finished job of the current model. Objects\n"
        "without an image's suffix and cytomask's own outputs are left out, as by `cytomask upload`. New\n"
        "uploads are segmented first. After Ctrl-C, run the same command again to resume.",
        on_a_stack=True,
    )
    parser.add_argument("place", metavar="S3URI", help="s3://bucket or s3://bucket/prefix")
    parser.add_argument(
        "--inventory", metavar="S3URI", help="manifest.json of an S3 Inventory of the bucket (CSV)"
    )
    parser.add_argument("--match", metavar="PATTERN", help="only keys that match, such as '*_Ph.tif'")
    parser.add_argument("--since", type=moment_text, metavar="TIME", help="only uploads since: 7d or a date")
    parser.add_argument("--limit", type=count, metavar="N", help="send at most this many images")
    parser.add_argument(
        "--max-usd", type=positive, metavar="X", help="stop when the estimated cost reaches this"
    )
    parser.add_argument(
        "--rate", type=positive, metavar="N", help="images to send a second; default: as fast as SQS allows"
    )
    parser.add_argument("--dry-run", action="store_true", help="count images, but send nothing")
    parser.add_argument(
        "--restart", action="store_true", help="start from the beginning instead of resuming an earlier run"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text[:50]!r} is not above 0")
    return value


def moment_text(text: str) -> str:
    """Check a point in time, and keep it as it was typed: a run is resumed by the same words."""
    moment(text)
    return text


@dataclass
class Choice:
    """The images that a run looks at.

    Attributes:
        after: look only at images after this key.
        archived: how many were left out because they are archived.
    """

    stack: "Stack"
    wanted: "Wanted"
    place: tuple[str, str]
    inventory: str | None
    after: str
    archived: int = 0

    def images(self) -> Iterator["Listed"]:
        """Yield the images that can be read; count the others."""
        self.archived = 0
        for listed in listing(self.stack, self.inventory, self.place, self.after):
            if self.wanted.takes(listed):
                if listed.archived:
                    self.archived += 1
                else:
                    yield listed

    def unfinished(self) -> Iterator["Listed"]:
        """Yield the images that lack a mask by their model."""
        from cytomask.backfill import unfinished

        found = unfinished(self.stack.dynamodb, self.stack.table, self.images(), self.stack.models().of)
        return (image for image, lacks in found if lacks)

    def say_archived(self) -> None:
        """Say how many images were left out."""
        if self.archived:
            complain(f"{self.archived} images are archived (Glacier) and were left out; restore them first")
            if self.inventory:
                complain("an inventory does not tell which are restored; run without it to send those")


def run_backfill(stack: "Stack", arguments: Namespace) -> int:
    """Print time and cost, ask, and send; return 2 if it cannot begin, 1 if a limit stopped it."""
    from cytomask.backfill import NotSent, Wanted
    from cytomask.errors import InvalidRequest

    if reason := why_not(stack, arguments):
        complain(reason)
        return 2
    pace = look_at_pace(stack)
    affordable = int(arguments.max_usd / pace.usd) if arguments.max_usd else None
    if affordable == 0:
        complain(f"--max-usd {arguments.max_usd:g} pays for no image: one costs about US$ {pace.usd:.6f}")
        return 2
    most = min((each for each in (arguments.limit, affordable) if each is not None), default=None)
    mark = Mark.of(stack, arguments)
    if arguments.restart and not arguments.dry_run:
        mark.forget()
    after = "" if arguments.dry_run else mark.read()
    wanted = Wanted(arguments.match, moment(arguments.since) if arguments.since else None)
    choice = Choice(stack, wanted, split_place(arguments.place), arguments.inventory, after)
    try:
        if not arguments.dry_run:
            return _send_all(choice, arguments, mark, pace, most)
        state(sum(1 for _ in islice(choice.unfinished(), most)), pace, arguments.rate)
        choice.say_archived()
        if stopped := mark.read():
            say(f"an earlier run stopped after {stopped}, and the next resumes there unless it has --restart")
    except InvalidRequest as error:
        complain(str(error))
        return 2
    except NotSent as error:
        complain(f"{error}; run the same command again to resume before these images")
        return 2
    return 0


def why_not(stack: "Stack", arguments: Namespace) -> str:
    """Say why a place cannot be backfilled; empty if it can."""
    bucket, _ = split_place(arguments.place)
    if not bucket:
        return f"{arguments.place} is not s3://bucket or s3://bucket/prefix"
    if bucket in stack.own_buckets - {stack.input_bucket}:
        return f"s3://{bucket} belongs to the stack and holds no images; name s3://{stack.input_bucket}"
    if bucket not in {stack.input_bucket, *stack.allowed_buckets}:
        return (
            f"the stack `{stack.name}` does not serve s3://{bucket}; run `cytomask attach s3://{bucket}`, or "
            "add it to the parameter AllowedBuckets"
        )
    if arguments.inventory and not split_place(arguments.inventory)[1]:
        return f"--inventory {arguments.inventory} is not s3://bucket/…/manifest.json"
    return ""


def _send_all(choice: Choice, arguments: Namespace, mark: "Mark", pace: Pace, most: int | None) -> int:
    """Send at most so many images; return 1 if some are left or the user declined."""
    from cytomask.backfill import batched, send

    stack, after = choice.stack, choice.after
    if after:
        say(f"resuming after {after}; --restart starts from the beginning")
    listed = sum(1 for _ in islice(choice.images(), most))
    if listed:
        say(f"at most {count_of(listed, 'image')}; those with a finished mask are left out")
        state(listed, pace, arguments.rate)
        if not _agreed(arguments):
            return 1
        left = choice.unfinished()
        sent, began = 0, time.monotonic()
        for group in batched(with_progress(islice(left, most), listed, "image"), 10):
            send(stack.sqs, stack.segment_queue, group)
            sent += len(group)
            mark.write(group[-1].object.key)
            if arguments.rate:
                time.sleep(max(0.0, began + sent / arguments.rate - time.monotonic()))
        if sent:
            say(f"{count_of(sent, 'image')} sent; `cytomask jobs --since 1h` shows their jobs")
        else:
            say("each of them has a finished job; nothing was sent")
        if sent == most and next(left, None) is not None:
            choice.say_archived()
            complain(
                "stopped by --limit or --max-usd; run the same command again to resume after the last image"
            )
            return 1
    else:
        say(f"no {'more ' if after else ''}images under {arguments.place}; nothing was sent")
    choice.say_archived()
    mark.forget()
    if after:
        say(f"images up to {after} were not looked at again; run the same command once more for new ones")
    return 0


def _agreed(arguments: Namespace) -> bool:
    if arguments.yes or not sys.stdin.isatty():
        return True
    return input("Send them? (y/n) ").strip().lower() in ("y", "yes")


def listing(stack: "Stack", inventory: str | None, place: tuple[str, str], after: str) -> Iterator["Listed"]:
    """Yield the objects to consider, from S3's listing or from an inventory of the bucket."""
    from cytomask.backfill import keeps_versions, list_bucket, read_inventory

    bucket, prefix = place
    if inventory is None:
        yield from list_bucket(stack.s3, bucket, prefix, after)
        return
    own, key = split_place(inventory)

    def read(name: str) -> bytes:
        with closing(stack.s3.get_object(Bucket=own, Key=name)["Body"]) as body:  # as in `storage`
            return body.read()

    listed_all = read_inventory(read, read(key), bucket, versions=keeps_versions(stack.s3, bucket))
    if after:  # an inventory is unsorted, but one manifest always gives the same order
        next((each for each in listed_all if each.object.key == after), None)
    for listed in listed_all:
        if listed.object.key.startswith(prefix):
            yield listed


def look_at_pace(stack: "Stack") -> Pace:
    """Estimate an image's time and cost from the newest finished jobs and the queue's mapping."""
    from cytomask.cli.rows import Search  # boto3 takes half a second

    rows = [
        row
        for row in islice(stack.rows.jobs(Search(status="SUCCEEDED")), LOOKED_AT)
        if row.estimated_cost_usd is not None and row.milliseconds is not None
    ]
    seconds = sum(row.milliseconds or 0 for row in rows) / 1000 / len(rows) if rows else TYPICAL_SECONDS
    usd = sum(row.estimated_cost_usd or 0 for row in rows) / len(rows) if rows else TYPICAL_USD
    mappings = stack.client("lambda").list_event_source_mappings(FunctionName=f"{stack.name}-segment")
    found = mappings["EventSourceMappings"] or [{}]
    at_a_time = found[0].get("ScalingConfig", {}).get("MaximumConcurrency", DEFAULT_CONCURRENCY)
    return Pace(seconds, usd + OTHER_USD, at_a_time)


def state(images: int, pace: Pace, rate: float | None) -> None:
    """Print how long these images take and what they cost."""
    hours, usd = pace.hours(images, rate), images * pace.usd
    takes = f"{hours:.1f} h" if hours >= 1 else f"{math.ceil(hours * 60)} min"
    costs = f"US$ {usd:.2f}" if usd >= 1 else f"US$ {usd:.4f}"
    pace_text = f"{pace.seconds:.2f} s each, {pace.at_a_time} at a time"
    say(f"{count_of(images, 'image')}: about {takes} ({pace_text}), about {costs}")


def split_place(place: str) -> tuple[str, str]:
    """Return bucket and prefix of `s3://bucket/prefix`; two empty texts for anything else."""
    scheme, _, rest = place.partition("://")
    bucket, _, prefix = rest.partition("/")
    return (bucket, prefix) if scheme == "s3" else ("", "")


class Mark:
    """Where a backfill stopped: the last key that was sent, in a small file in the user's cache."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, stack: "Stack", arguments: Namespace) -> "Mark":
        """Return the mark of a backfill, which depends on stack, model, place and choice of images."""
        from cytomask.model_store import MODE

        chosen = [
            stack.arn,
            stack.models().current[MODE].sha256,
            arguments.place,
            arguments.inventory,
            arguments.match,
            arguments.since,
        ]
        name = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cls(cache / "cytomask" / f"backfill-{name}.json")

    def read(self) -> str:
        """Return the last key that was sent; empty if there is none."""
        try:
            after = json.loads(self._path.read_text())["after"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        return after if isinstance(after, str) else ""

    def write(self, key: str) -> None:
        """Store the last key that was sent."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".partial")
        temporary.write_text(json.dumps({"after": key}))
        temporary.replace(self._path)

    def forget(self) -> None:
        """Remove the mark, so that the next run starts from the beginning."""
        self._path.unlink(missing_ok=True)
