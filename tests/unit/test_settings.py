"""Settings are read from the environment, and errors name the missing ones."""

import pytest

from cytomask.settings import Settings

ENVIRONMENT = {
    "INPUT_BUCKET": "in",
    "OUTPUT_BUCKET": "out",
    "GROUND_TRUTH_BUCKET": "truth",
    "JOBS_TABLE": "jobs",
    "SEGMENT_QUEUE_URL": "https://sqs/segment",
    "EVALUATION_QUEUE_URL": "https://sqs/evaluation",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008",
    "RETRY_DELAY": "30",
    "MAX_RECEIVE_COUNT": "5",
}


def test_the_environment_of_the_template_is_read() -> None:
    settings = Settings.from_environment(ENVIRONMENT | {"PATH": "/bin"})
    assert settings == Settings(
        "in", "out", "truth", "jobs", "https://sqs/segment", "https://sqs/evaluation", 3008, 30, 5
    )


@pytest.mark.parametrize("name", ENVIRONMENT)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_variable_is_named(name: str, value: str | None) -> None:
    environment = {key: text for key, text in ENVIRONMENT.items() if key != name}
    if value is not None:
        environment[name] = value
    with pytest.raises(ValueError, match=f"the environment lacks {name};"):
        Settings.from_environment(environment)


def test_all_missing_variables_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=f"lacks {', '.join(ENVIRONMENT)};"):
        Settings.from_environment({})


@pytest.mark.parametrize("name", ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "RETRY_DELAY", "MAX_RECEIVE_COUNT"])
@pytest.mark.parametrize("value", ["3 GB", "-1", "3008.0"])
def test_a_value_that_is_not_a_whole_number_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=name):
        Settings.from_environment(ENVIRONMENT | {name: value})


def test_the_stack_s_own_buckets_are_allowed_and_those_that_are_listed() -> None:
    own = Settings.from_environment(ENVIRONMENT).allowed_buckets
    assert own == {"in", "out", "truth"}
    listed = Settings.from_environment(ENVIRONMENT | {"ALLOWED_BUCKETS": "a, b.c,"}).allowed_buckets
    assert listed == own | {"a", "b.c"}


@pytest.mark.parametrize("bucket", ["in", "truth"])
def test_masks_never_go_to_the_input_bucket(bucket: str) -> None:
    with pytest.raises(ValueError, match="OUTPUT_BUCKET is also an input"):
        Settings.from_environment(ENVIRONMENT | {"OUTPUT_BUCKET": bucket})
