"""The stack's buckets and table on moto, and its functions' environment."""

from typing import Any

from factories import GROUND_TRUTH, INPUT, MODELS, OUTPUT, QUEUE_URL, REGION, SEGMENT_QUEUE_URL, TABLE

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


def make_buckets(s3: Any) -> None:
    for bucket in (INPUT, OUTPUT, GROUND_TRUTH, MODELS):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})


def make_table(dynamodb: Any) -> None:
    """The Jobs table with the keys and indexes of template.yaml."""
    keys = ["job_id", "record", "status", "group", "plate", "place", "created_at"]
    dynamodb.create_table(
        TableName=TABLE,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
        KeySchema=key_schema("job_id", "record"),
        GlobalSecondaryIndexes=[
            {
                "IndexName": f"by_{name}",
                "KeySchema": key_schema(name, sort),
                "Projection": {"ProjectionType": "ALL"},
            }
            for name, sort in INDEXES.items()
        ],
    )


INDEXES = {"status": "created_at", "group": "created_at", "plate": "place"}


def key_schema(partition: str, sort: str) -> Any:
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]
