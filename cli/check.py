"""`cytomask check`: send one small image through the whole stack and give advice when a step fails."""

import io
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, duration, on_stack
from cytomask.table import Table

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask check                                         # after a deployment, or if masks do not appear",
    "cytomask check --timeout 5m                            # with a cold, slow function",
)
HEIGHT, WIDTH = 260, 352
POLL_SECONDS = 0.5


class StepFailed(Exception):
    """A step failed; the message says what to do."""


@dataclass
class Trial:
    """The test image, and what the steps have found so far."""

    stack: "Stack"
    seconds: float
    key: str = field(default_factory=lambda: f"cytomask-check/{time.time_ns()}.tif")
    began: float = field(default_factory=time.time)
    job_id: str = ""

    def wait(self, look: Callable[[], Any], otherwise: str) -> Any:
        """Repeat a look until it finds something; raise StepFailed after the timeout."""
        deadline = time.monotonic() + self.seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise StepFailed(otherwise)
            time.sleep(POLL_SECONDS)
        return found


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "check",
        "send a small image through the stack and show which steps work",
        on_stack(run_check),
        EXAMPLES,
        description="The image, its outputs and its rows are removed at the end, so that no report counts\n"
        "them. The exit code is 1 if a step failed.",
        on_a_stack=True,
    )
    parser.add_argument(
        "--timeout",
        type=duration,
        default="3m",
        metavar="TIME",
        help="how long to wait for the mask, and then for the score; default: 3m",
    )


def run_check(stack: "Stack", arguments: Namespace) -> int:
    """Run the steps until one fails, then remove their traces; return 1 if any failed."""
    trial = Trial(stack, arguments.timeout.total_seconds())
    steps = (
        ("function", look_at_function),
        ("upload", upload),
        ("mask", await_mask),
        ("row", look_at_row),
        ("score", await_score),
        ("log lines", look_at_log),
        ("alarms", look_at_alarms),
    )
    failed = False
    for name, step in steps:
        try:
            say(f"{name:10} works    {step(trial)}")
        except (StepFailed, ClientError) as error:
            failed = True
            advice = (
                str(error) if isinstance(error, StepFailed) else f"{error}; `cytomask policy` has the rights"
            )
            say(f"{name:10} FAILED   {advice}")
            if name in ("function", "upload", "mask"):
                break
    for reason in remove(trial):
        complain(reason)
    return 1 if failed else 0


def look_at_function(trial: Trial) -> str:
    """Check that the segment function exists and takes messages from its queue."""
    functions = trial.stack.client("lambda")
    name = f"{trial.stack.name}-segment"
    state = functions.get_function_configuration(FunctionName=name).get("State", "Active")
    if state not in ("Active", "Inactive", "Pending"):  # an inactive function starts with the next message
        raise StepFailed(f"{name} is {state}; deploy the stack again")
    mappings = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    if not any(each.get("State") in ("Enabled", "Enabling", "Creating") for each in mappings):
        raise StepFailed("it takes no messages: the stack is paused; run `cytomask resume`")
    return f"{name} takes messages from its queue"


def upload(trial: Trial) -> str:
    """Upload a generated image and its ground truth."""
    import tifffile  # other commands do not need it
    from PIL import Image

    from cytomask.samples.fields import phase_contrast_field

    sample = phase_contrast_field(1, HEIGHT, WIDTH)
    image, truth = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(image, sample.pixels)
    Image.fromarray(sample.cells.astype("uint8") * 255).save(truth, "PNG")
    stack = trial.stack
    stack.s3.put_object(Bucket=stack.ground_truth_bucket, Key=f"{trial.key}.png", Body=truth.getvalue())
    stack.s3.put_object(Bucket=stack.input_bucket, Key=trial.key, Body=image.getvalue())
    return f"s3://{stack.input_bucket}/{trial.key}"


def await_mask(trial: Trial) -> str:
    """Wait for the mask, and check that it is as large as the image."""
    import msgspec
    from PIL import Image

    def result() -> Any:
        content = read(trial, f"{trial.key}.result.json")
        return msgspec.json.decode(content) if content else None

    found = trial.wait(
        result,
        "no result appeared: `cytomask logs --errors` says why; if it shows nothing, look at the queue "
        "(docs/operations.md, step 4)",
    )
    trial.job_id = found["job_id"]
    if found["status"] != "SUCCEEDED":
        raise StepFailed(f"the image was rejected: {found.get('error', {}).get('message')}")
    mask = read(trial, f"{trial.key}.mask.png")
    size = Image.open(io.BytesIO(mask)).size if mask else None
    if size != (WIDTH, HEIGHT):
        raise StepFailed(f"the mask has the size {size}, not {(WIDTH, HEIGHT)}; deploy the stack again")
    return f"confluence {found['confluence']:.3f}, {time.time() - trial.began:.1f} s after the upload"


def read(trial: Trial, key: str) -> bytes | None:
    """Read an output; return None while it does not exist."""
    with suppress(trial.stack.s3.exceptions.NoSuchKey):
        return trial.stack.s3.get_object(Bucket=trial.stack.output_bucket, Key=key)["Body"].read()
    return None


def look_at_row(trial: Trial) -> str:
    """Check that the table has the job's row."""

    def succeeded() -> bool:
        found = trial.stack.rows.of(trial.job_id)
        return found is not None and found[0].status == "SUCCEEDED"

    # The mask is written before the row is updated.
    trial.wait(
        succeeded,
        f"job {trial.job_id} has no row that says SUCCEEDED; `cytomask logs --job {trial.job_id}`",
    )
    return f"job {trial.job_id} SUCCEEDED"


def await_score(trial: Trial) -> str:
    """Check that the mask is scored against its ground truth."""

    def scored() -> Any:
        found = trial.stack.rows.of(trial.job_id)
        ended = ("SCORED", "REJECTED", "FAILED")
        return next((row for row in found[1] if row.evaluation_status in ended), None) if found else None

    row = trial.wait(
        scored, "no score appeared; the evaluate function's log says why: `cytomask logs --errors`"
    )
    if row.evaluation_status != "SCORED":
        raise StepFailed(f"the score was {row.evaluation_status}: {row.error}")
    return f"IoU {row.iou:.3f}"


def look_at_log(trial: Trial) -> str:
    """Check that the functions' log lines reach CloudWatch."""
    since = int(trial.began * 1000) - 60_000

    def lines() -> int:
        return sum(1 for _ in trial.stack.log_events("segment", since, f'"{trial.job_id}"'))

    count = trial.wait(
        lines, "CloudWatch has no line about the job; perhaps the function's role may not write logs"
    )
    return f"{count} lines; `cytomask logs --job {trial.job_id}`"


def look_at_alarms(trial: Trial) -> str:
    """Check that the alarm topic has a subscriber."""
    if not trial.stack.alarm_topic:
        raise StepFailed("the stack has no alarm topic; deploy it again")
    answer = trial.stack.client("sns").list_subscriptions_by_topic(TopicArn=trial.stack.alarm_topic)
    confirmed = [each for each in answer["Subscriptions"] if each["SubscriptionArn"].startswith("arn:")]
    if not confirmed:
        waiting = " (one waits for its confirmation by e-mail)" if answer["Subscriptions"] else ""
        return f"the alarm topic has no subscriber{waiting}; the parameter AlarmEmail subscribes an address"
    return f"{len(confirmed)} subscribed"


def remove(trial: Trial) -> Iterator[str]:
    """Remove the image, its outputs and its rows; yield a line for each thing that could not be removed."""
    stack = trial.stack
    places = [(stack.input_bucket, trial.key), (stack.ground_truth_bucket, f"{trial.key}.png")]
    places += [(stack.output_bucket, f"{trial.key}.{kind}") for kind in ("mask.png", "result.json")]
    for bucket, key in places:
        try:
            stack.s3.delete_object(Bucket=bucket, Key=key)
        except ClientError:
            yield f"s3://{bucket}/{key} stays: you have no right to delete it"
    if trial.job_id:
        try:
            for row in list(Table(stack.dynamodb, stack.table).rows(trial.job_id)):
                stack.dynamodb.delete_item(
                    TableName=stack.table,
                    Key={name: {"S": str(row[name])} for name in ("job_id", "record")},
                )
        except ClientError:
            yield f"the rows of job {trial.job_id} stay: you have no right to delete them"
