"""Settings of a function, read from its environment once at start."""

from collections.abc import Mapping
from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(min_length=1)]


class Settings(
    msgspec.Struct,
    frozen=True,
    rename={
        "input_bucket": "INPUT_BUCKET",
        "output_bucket": "OUTPUT_BUCKET",
        "ground_truth_bucket": "GROUND_TRUTH_BUCKET",
        "jobs_table": "JOBS_TABLE",
        "segment_queue_url": "SEGMENT_QUEUE_URL",
        "evaluation_queue_url": "EVALUATION_QUEUE_URL",
        "memory_mb": "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "retry_delay": "RETRY_DELAY",
        "tries": "MAX_RECEIVE_COUNT",
        "more_buckets": "ALLOWED_BUCKETS",
        "name_pattern": "NAME_PATTERN",
        "plate_topic": "PLATE_TOPIC_ARN",
        "models_bucket": "MODELS_BUCKET",
        "model": "MODEL",
    },
):
    """The resources of the stack that a function works with.

    Attributes:
        memory_mb: as Lambda bills it.
        retry_delay: seconds until a message that failed for the first time is delivered again.
        tries: deliveries after which the queue gives a message up.
        more_buckets: buckets that messages may name beside the stack's own, with commas between.
        name_pattern: the user's own naming scheme, which tells an image's well.
        plate_topic: ARN of the topic for complete plates.
        models_bucket: holds the stack's own weights.
        model: sha256 of the weights that segment, or `baked-in` for those in the container.
    """

    input_bucket: Name
    output_bucket: Name
    ground_truth_bucket: Name
    jobs_table: Name
    segment_queue_url: Name
    evaluation_queue_url: Name
    memory_mb: int
    retry_delay: int
    tries: int
    more_buckets: str = ""
    name_pattern: str = ""
    plate_topic: str = ""
    models_bucket: str = ""
    model: str = "baked-in"

    @property
    def allowed_buckets(self) -> frozenset[str]:
        """The buckets that messages may name."""
        return self.attached_buckets | self._own_buckets

    @property
    def attached_buckets(self) -> frozenset[str]:
        """The buckets that messages may name beside the stack's own."""
        listed = frozenset(filter(None, map(str.strip, self.more_buckets.split(","))))
        return listed - self._own_buckets

    @property
    def _own_buckets(self) -> frozenset[str]:
        return frozenset((self.input_bucket, self.output_bucket, self.ground_truth_bucket))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the variables that template.yaml sets; raise ValueError naming those that are wrong."""
        wrong = [
            field.encode_name
            for field in msgspec.structs.fields(cls)
            if not _is_valid(environment.get(field.encode_name, ""), field.type)
        ]
        if wrong:
            raise ValueError(
                f"the environment lacks {', '.join(wrong)}; template.yaml and Lambda set them, "
                "`sam local invoke` takes them from --env-vars"
            )
        settings = msgspec.convert(dict(environment), cls, strict=False)
        if settings.output_bucket in (settings.input_bucket, settings.ground_truth_bucket):
            raise ValueError("OUTPUT_BUCKET is also an input: every mask would start a job of its own")
        return settings


def _is_valid(value: str, kind: object) -> bool:
    if kind is int:
        return value.isdecimal()  # msgspec takes "3008.0" too
    try:
        msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True
