"""What a function is told by its environment, read once at start."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The resources of the stack that a function works with.

    Attributes:
        memory_mb: as Lambda bills it.
        retry_delay: seconds until a message that failed for the first time is delivered again.
        tries: deliveries after which the queue gives a message up.
        more_buckets: beside the stack's own, those that messages may name.
    """

    input_bucket: str
    output_bucket: str
    ground_truth_bucket: str
    jobs_table: str
    segment_queue_url: str
    evaluation_queue_url: str
    memory_mb: int
    retry_delay: int
    tries: int
    more_buckets: frozenset[str] = frozenset()

    @property
    def allowed_buckets(self) -> frozenset[str]:
        """The buckets that messages may name."""
        return self.more_buckets | {self.input_bucket, self.output_bucket, self.ground_truth_bucket}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Reads the variables that template.yaml sets; raises ValueError naming those that are wrong."""
        names = {
            "input_bucket": "INPUT_BUCKET",
            "output_bucket": "OUTPUT_BUCKET",
            "ground_truth_bucket": "GROUND_TRUTH_BUCKET",
            "jobs_table": "JOBS_TABLE",
            "segment_queue_url": "SEGMENT_QUEUE_URL",
            "evaluation_queue_url": "EVALUATION_QUEUE_URL",
        }
        values = {field: environment.get(name, "") for field, name in names.items()}
        number_names = {
            "memory_mb": "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
            "retry_delay": "RETRY_DELAY",
            "tries": "MAX_RECEIVE_COUNT",
        }
        numbers = {field: environment.get(name, "") for field, name in number_names.items()}
        wrong = [names[field] for field, value in values.items() if not value]
        wrong += [number_names[field] for field, value in numbers.items() if not value.isdecimal()]
        if wrong:
            raise ValueError(
                f"the environment lacks {', '.join(wrong)}; template.yaml and Lambda set them, "
                "`sam local invoke` takes them from --env-vars"
            )
        if values["output_bucket"] in (values["input_bucket"], values["ground_truth_bucket"]):
            raise ValueError("OUTPUT_BUCKET is also an input: every mask would start a job of its own")
        more = frozenset(filter(None, map(str.strip, environment.get("ALLOWED_BUCKETS", "").split(","))))
        return cls(
            memory_mb=int(numbers["memory_mb"]),
            retry_delay=int(numbers["retry_delay"]),
            tries=int(numbers["tries"]),
            more_buckets=more,
            **values,
        )
