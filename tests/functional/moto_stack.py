"""The stack's buckets, queues and table on moto, and its functions' environment.

All are made in moto's memory, because every test needs them and calls of boto3 take ten times as long.
"""

from factories import GROUND_TRUTH, INPUT, MODELS, OUTPUT, QUEUE_URL, REGION, SEGMENT_QUEUE_URL, TABLE
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.dynamodb.models import dynamodb_backends
from moto.s3.models import s3_backends
from moto.sqs.models import sqs_backends

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008",
    "INPUT_BUCKET": INPUT,
    "OUTPUT_BUCKET": OUTPUT,
    "GROUND_TRUTH_BUCKET": GROUND_TRUTH,
    "MODELS_BUCKET": MODELS,
    "JOBS_TABLE": TABLE,
    "SEGMENT_QUEUE_URL": SEGMENT_QUEUE_URL,
    "EVALUATION_QUEUE_URL": QUEUE_URL,
    "RETRY_DELAY": "30",
    "MAX_RECEIVE_COUNT": "5",
    "POWERTOOLS_METRICS_NAMESPACE": "cytomask",
    "POWERTOOLS_SERVICE_NAME": "segment",
}


def make_buckets() -> None:
    for bucket in (INPUT, OUTPUT, GROUND_TRUTH, MODELS):
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].create_bucket(bucket, REGION)


def make_queues() -> None:
    for url in (SEGMENT_QUEUE_URL, QUEUE_URL):
        sqs_backends[DEFAULT_ACCOUNT_ID][REGION].create_queue(url.rpartition("/")[2])


def make_table() -> None:
    """The Jobs table with the keys and indexes of template.yaml."""
    keys = ["job_id", "record", "status", "group", "plate", "place", "created_at"]
    indexes = [
        {
            "IndexName": f"by_{name}",
            "KeySchema": key_schema(name, sort),
            "Projection": {"ProjectionType": "ALL"},
        }
        for name, sort in INDEXES.items()
    ]
    dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].create_table(
        TABLE,
        schema=key_schema("job_id", "record"),
        throughput=None,
        attr=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
        global_indexes=indexes,
        indexes=[],
        streams=None,
        billing_mode="PAY_PER_REQUEST",
        sse_specification=None,
        tags=[],
        deletion_protection_enabled=False,
        warm_throughput=None,
    )


INDEXES = {"status": "created_at", "group": "created_at", "plate": "place"}


def key_schema(partition: str, sort: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]
