"""Log lines, times and costs of a job."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.logging.types import LogRecord

# aws.amazon.com/lambda/pricing, x86, us-east-1, first tier, in November 2026
USD_PER_GB_SECOND = 0.0000166667
USD_PER_REQUEST = 0.0000002


# What the log group's name tells already, the time that CloudWatch gives each line, a trace that nothing
# records, and the place in the code. They were a quarter of the bytes.
LEFT_OUT = {
    "function_name",
    "function_arn",
    "function_memory_size",
    "xray_trace_id",
    "timestamp",
    "location",
}


class ShortLines(LambdaPowertoolsFormatter):
    """Writes log lines as Powertools does, without the fields that are the same in each."""

    def serialize(self, log: LogRecord) -> str:
        """Write a line as JSON."""
        kept: LogRecord = {name: value for name, value in log.items() if name not in LEFT_OUT}
        return super().serialize(kept)


def make_logger() -> Logger:
    """Make a function's logger, whose service is named in its environment."""
    return Logger(logger_formatter=ShortLines())


class Stopwatch:
    """Measures milliseconds by stage; repeated stages add up."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's time to the stage `name`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - started

    def milliseconds(self) -> dict[str, float]:
        """Return the stages' times so far, and `total` since the stopwatch was created."""
        stages = self._stages | {"total": time.perf_counter() - self._started}
        return {name: round(seconds * 1000, 1) for name, seconds in stages.items()}


@contextmanager
def emitted(metrics: Metrics) -> Iterator[None]:
    """Print the block's metrics, if any, as one line of CloudWatch's embedded metric format."""
    try:
        yield
    finally:
        if metrics.metric_set:
            metrics.flush_metrics()


def estimated_cost_usd(milliseconds: float, memory_mb: int) -> float:
    """Estimate Lambda's price for this time and memory in US$, including one request."""
    return round(milliseconds / 1000 * memory_mb / 1024 * USD_PER_GB_SECOND + USD_PER_REQUEST, 9)
