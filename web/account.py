"""What the page's server works with: one stack's names, clients and calls, all with the user's own rights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cytomask.served_model import ServedModels, read_served_models
from cytomask.web.caller import Caller

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class LogLine:
    """A line of a function's log: milliseconds since 1970, the function, its level, the rest as text."""

    at: int
    function: str
    level: str
    text: str


@dataclass(frozen=True)
class Account:
    """A stack, deployed or emulated.

    Attributes:
        name: of the stack.
        table: of the jobs.
        caller: calls the stack's HTTP API, signed where it is deployed.
        log_lines: the log lines of a job, oldest first.
        redrive: sends a failed job again; False where it is not FAILED any more.
        thresholds: the present models' own, by mode.
    """

    name: str
    input_bucket: str
    output_bucket: str
    ground_truth_bucket: str
    table: str
    s3: "S3Client"
    dynamodb: "DynamoDBClient"
    caller: Caller
    log_lines: Callable[[str], Sequence[LogLine]]
    redrive: Callable[[str], bool]
    thresholds: Callable[[], Mapping[str, float]] = lambda: thresholds_of(read_served_models())

    @property
    def buckets(self) -> Mapping[str, str]:
        """What each bucket is for, by its name."""
        return {
            self.input_bucket: "images",
            self.output_bucket: "masks",
            self.ground_truth_bucket: "ground truths",
        }

    @property
    def region(self) -> str:
        """Where the stack is."""
        return str(self.s3.meta.region_name)


def thresholds_of(models: ServedModels) -> dict[str, float]:
    """Return each model's own threshold, by mode."""
    return {mode: model.threshold for mode, model in models.items()}


Row = dict[str, Any]
