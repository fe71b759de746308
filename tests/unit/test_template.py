"""Invariants of template.yaml."""

import json
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from cytomask.addresses import S3Object
from cytomask.arrivals import LONGEST_MESSAGE_BYTES
from cytomask.images import Limits
from cytomask.infra.emulator import HANDLERS
from cytomask.infra.template import (
    NO_CODE,
    TEMPLATE,
    function_name,
    functions,
    load_template,
    made_up_environment,
    without_local_code,
)
from cytomask.settings import Settings
from cytomask.work import coco_prefix

TEMPLATE_LIMIT = 1_000_000  # bytes that CloudFormation takes from S3, where sam and the emulator put it

template = load_template()
parameters = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
resources = template["Resources"]


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    return {name: found["Properties"] for name, found in resources.items() if found["Type"] == kind}


def value(written: Any) -> Any:
    """Return a property's value, or its parameter's default."""
    return parameters[written["Ref"]] if isinstance(written, dict) and "Ref" in written else written


def statements(kind: str, field: str, target: str) -> list[dict[str, Any]]:
    """Return the statements of the policy of this kind that is attached to `target`."""
    policies = [policy for policy in of_type(kind).values() if {"Ref": target} in _listed(policy[field])]
    assert len(policies) == 1, f"{target} has {len(policies)} policies; S3 and SQS keep one"
    written: list[dict[str, Any]] = policies[0]["PolicyDocument"]["Statement"]
    return [statement for statement in written if "Fn::If" not in statement]  # by default no condition holds


def _listed(item: Any) -> list[Any]:
    return item if isinstance(item, list) else [item]


buckets = of_type("AWS::S3::Bucket")
queues = of_type("AWS::SQS::Queue")
queries = of_type("AWS::Logs::QueryDefinition")
alarms = of_type("AWS::CloudWatch::Alarm")
segment = resources["SegmentFunction"]["Properties"]
api = resources["ApiFunction"]["Properties"]
shared = template["Globals"]["Function"]
queued = [
    name
    for name, function in functions(template).items()
    if any(event["Type"] == "SQS" for event in function["Properties"]["Events"].values())
]
notified = {
    name: bucket["NotificationConfiguration"]["QueueConfigurations"]
    for name, bucket in buckets.items()
    if "NotificationConfiguration" in bucket
}


def mappings(function: str) -> list[dict[str, Any]]:
    """Return a function's queue mappings."""
    events = resources[function]["Properties"]["Events"].values()
    return [event["Properties"] for event in events if event["Type"] == "SQS"]


@pytest.mark.parametrize("function", queued)
def test_a_message_stays_invisible_for_six_timeouts_of_its_function_and_not_much_longer(
    function: str,
) -> None:
    """A shorter one does work twice that only takes its time; a longer one idles after a kill."""
    properties = resources[function]["Properties"]
    for mapping in mappings(function):
        source = mapping["Queue"]["Fn::GetAtt"][0]
        assert 6 <= value(queues[source]["VisibilityTimeout"]) / value(properties["Timeout"]) <= 9


@pytest.mark.parametrize("function", queued)
def test_a_batch_retries_only_its_failed_messages(function: str) -> None:
    assert {tuple(mapping["FunctionResponseTypes"]) for mapping in mappings(function)} == {
        ("ReportBatchItemFailures",)
    }


def test_defaults_match_the_design() -> None:
    events = segment["Events"]["Images"]["Properties"]
    assert (value(segment["MemorySize"]), value(segment["Timeout"])) == (3008, 120)
    assert events["BatchSize"] == 4
    assert shared["Architectures"] == ["x86_64"]
    assert "ReservedConcurrentExecutions" not in segment


# A new account has ten concurrent executions in all; two are left for calls over HTTP. A message that finds
# no place has been tried once more, which matters where its queue counts: what reads the others can wait.
PLACES, OF_HTTP = 10, 2
taken = [mapping for name in functions(template) for mapping in mappings(name)]
counted = [mapping for mapping in taken if "RedrivePolicy" in queues[mapping["Queue"]["Fn::GetAtt"][0]]]


def concurrency(found: list[dict[str, Any]]) -> list[int]:
    return [value(mapping["ScalingConfig"]["MaximumConcurrency"]) for mapping in found]


def test_queued_work_and_http_calls_fit_into_a_new_account() -> None:
    assert [mapping["Queue"] for mapping in counted] == [
        {"Fn::GetAtt": [queue, "Arn"]} for queue in ("SegmentQueue", "EvaluationQueue")
    ]
    assert sum(concurrency(counted)) + OF_HTTP == PLACES


def test_endless_retries_use_the_lowest_concurrency() -> None:
    others = [mapping for mapping in taken if mapping not in counted]
    assert [mapping["Queue"] for mapping in others] == [
        {"Fn::GetAtt": [queue, "Arn"]} for queue in ("SegmentDLQ", "EvaluationDLQ")
    ]
    assert concurrency(others) == [2, 2]


@pytest.mark.parametrize("name", ["evaluate", "failures", "api"])
def test_a_zip_function_uses_the_layer_and_lambdas_python(name: str) -> None:
    layer = resources["CytomaskLayer"]["Properties"]
    function = resources[f"{name.capitalize()}Function"]["Properties"]
    assert function["Layers"] == [{"Ref": "CytomaskLayer"}]
    assert (function["Runtime"], function["Handler"]) == ("python3.13", f"functions.{name}.app.handler")
    assert layer["CompatibleRuntimes"] == [function["Runtime"]]
    assert layer["CompatibleArchitectures"] == shared["Architectures"]


@pytest.mark.parametrize("name", ["CytomaskLayer", "EvaluateFunction", "FailuresFunction", "ApiFunction"])
def test_every_function_built_by_make_has_a_target(name: str) -> None:
    properties = resources[name]["Properties"]
    assert resources[name]["Metadata"]["BuildMethod"] == "makefile"
    folder = TEMPLATE.parent / properties.get("ContentUri", properties.get("CodeUri"))
    assert f"\nbuild-{name}:\n" in (folder / "Makefile").read_text()


def test_every_call_over_http_is_signed_and_throttled() -> None:
    door = resources["HttpApi"]["Properties"]
    assert door["Auth"] == {"EnableIamAuthorizer": True, "DefaultAuthorizer": "AWS_IAM"}
    assert door["DefaultRouteSettings"] == {"ThrottlingRateLimit": 20, "ThrottlingBurstLimit": 40}
    assert door["RouteSettings"] == {"POST /seg_mask": {"ThrottlingRateLimit": 2, "ThrottlingBurstLimit": 4}}


def test_every_route_belongs_to_the_signed_api_without_its_own_authorisation() -> None:
    routes = [
        event["Properties"]
        for name in functions(template)
        for event in resources[name]["Properties"]["Events"].values()
        if event["Type"] == "HttpApi"
    ]
    assert [f"{route['Method']} {route['Path']}" for route in routes] == [
        "POST /seg_mask",
        "POST /jobs",
        "GET /jobs/{id}",
        "GET /jobs",
        "GET /plates",
        "GET /plates/{plate}",
        "GET /plates/{plate}/pages",
    ]
    assert all(route["ApiId"] == {"Ref": "HttpApi"} and "Auth" not in route for route in routes)


def test_the_api_function_times_out_before_the_http_api_does() -> None:
    assert value(api["Timeout"]) < 30
    of_http = [
        event["Properties"].get("TimeoutInMillis", 30_000)
        for function in functions(template).values()
        for event in function["Properties"]["Events"].values()
        if event["Type"] == "HttpApi"
    ]
    assert set(of_http) == {30_000}  # the most that an HTTP API allows


def test_every_function_has_a_handler_in_the_emulated_stack() -> None:
    assert set(HANDLERS) == set(functions(template))


def test_nothing_listens_to_the_output_bucket() -> None:
    assert set(notified) == {"InputBucket", "GroundTruthBucket"}
    assert "NotificationConfiguration" not in buckets["OutputBucket"]


@pytest.mark.parametrize(
    ("bucket", "queue", "events"),
    [
        ("InputBucket", "SegmentQueue", ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]),
        ("GroundTruthBucket", "EvaluationQueue", ["s3:ObjectCreated:*"]),
    ],
)
def test_only_its_own_bucket_may_notify_a_queue(bucket: str, queue: str, events: list[str]) -> None:
    assert notified[bucket] == [{"Event": event, "Queue": {"Fn::GetAtt": [queue, "Arn"]}} for event in events]
    assert resources[bucket]["DependsOn"] == f"{queue}Policy"
    allowed = [
        each for each in statements("AWS::SQS::QueuePolicy", "Queues", queue) if each["Effect"] == "Allow"
    ]
    assert [each["Principal"] for each in allowed] == [{"Service": "s3.amazonaws.com"}]
    assert allowed[0]["Action"] == "sqs:SendMessage"
    name = buckets[bucket]["BucketName"]["Fn::Sub"]
    assert allowed[0]["Condition"] == {
        "ArnEquals": {"aws:SourceArn": {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{name}"}},
        "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
    }


@pytest.mark.parametrize("queue", queues)
def test_every_queue_is_encrypted_by_sqs_and_keeps_messages_for_14_days(queue: str) -> None:
    assert queues[queue]["SqsManagedSseEnabled"] is True
    assert "KmsMasterKeyId" not in queues[queue]
    assert queues[queue]["MessageRetentionPeriod"] == 14 * 24 * 3600


@pytest.mark.parametrize("name", ["Segment", "Evaluation"])
def test_failing_messages_go_to_the_queues_own_dead_letter_queue(name: str) -> None:
    redrive = queues[f"{name}Queue"]["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": [f"{name}DLQ", "Arn"]}
    assert value(redrive["maxReceiveCount"]) == 5
    source = queues[f"{name}Queue"]["QueueName"]["Fn::Sub"]
    assert queues[f"{name}DLQ"]["RedriveAllowPolicy"] == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [
            {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{source}"}
        ],
    }


@pytest.mark.parametrize("name", ["Segment", "Evaluation"])
def test_dead_letter_sources_have_the_names_that_the_function_expects(name: str) -> None:
    events = resources["FailuresFunction"]["Properties"]["Events"].values()
    assert {"Fn::GetAtt": [f"{name}DLQ", "Arn"]} in [event["Properties"]["Queue"] for event in events]
    queue = queues[f"{name}Queue"]["QueueName"]["Fn::Sub"]
    assert queues[f"{name}DLQ"]["QueueName"] == {"Fn::Sub": f"{queue}-dlq"}


@pytest.mark.parametrize("name", ["Segment", "Evaluation"])
def test_every_message_fits_into_a_row(name: str) -> None:
    assert queues[f"{name}Queue"]["MaximumMessageSize"] == LONGEST_MESSAGE_BYTES


@pytest.mark.parametrize("bucket", buckets)
def test_every_bucket_is_private_and_encrypted(bucket: str) -> None:
    properties = buckets[bucket]
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    rules = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rules == [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]


@pytest.mark.parametrize("bucket", buckets)
def test_incomplete_uploads_are_removed_within_a_week(bucket: str) -> None:
    rules = lifecycle_rules(bucket)
    assert {"DaysAfterInitiation": 7} in [rule.get("AbortIncompleteMultipartUpload") for rule in rules]


@pytest.mark.parametrize(
    ("bucket", "parameter"), [("InputBucket", "ImageRetentionDays"), ("OutputBucket", "MaskRetentionDays")]
)
def test_objects_expire_after_the_days_of_their_parameter_and_0_keeps_them(
    bucket: str, parameter: str
) -> None:
    (chosen,) = [rule["Fn::If"] for rule in lifecycle_rules(bucket) if "Fn::If" in rule]
    condition, rule, otherwise = chosen
    assert template["Conditions"][condition] == {"Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, 0]}]}
    days = {"Ref": parameter}
    assert rule["ExpirationInDays"] == days
    assert rule.get("NoncurrentVersionExpiration", {"NoncurrentDays": days}) == {"NoncurrentDays": days}
    assert otherwise == {"Ref": "AWS::NoValue"}
    assert parameters[parameter] == 0


@pytest.mark.parametrize("bucket", buckets)
def test_every_lifecycle_rule_is_enabled(bucket: str) -> None:
    rules = [rule["Fn::If"][1] if "Fn::If" in rule else rule for rule in lifecycle_rules(bucket)]
    assert {rule["Status"] for rule in rules} == {"Enabled"}


def test_the_input_bucket_keeps_versions_if_that_is_asked_for() -> None:
    asked = {"Fn::If": ["KeepsVersions", {"Status": "Enabled"}, {"Ref": "AWS::NoValue"}]}
    assert buckets["InputBucket"]["VersioningConfiguration"] == asked
    assert template["Conditions"]["KeepsVersions"] == {"Fn::Equals": [{"Ref": "InputVersioning"}, "yes"]}
    assert parameters["InputVersioning"] == "no"


def test_a_browser_may_only_put_images_and_only_from_a_page_of_this_computer() -> None:
    (rule,) = buckets["InputBucket"]["CorsConfiguration"]["CorsRules"]
    assert rule["AllowedOrigins"] == ["http://127.0.0.1:*", "http://localhost:*"]
    assert rule["AllowedMethods"] == ["PUT"]
    assert rule["ExposedHeaders"] == ["ETag"]  # of each part of a large image
    others = [bucket for name, bucket in buckets.items() if name != "InputBucket"]
    assert not any("CorsConfiguration" in bucket for bucket in others)


def test_ground_truths_are_never_deleted() -> None:
    assert [sorted(rule) for rule in lifecycle_rules("GroundTruthBucket")] == [
        ["AbortIncompleteMultipartUpload", "Id", "Status"]
    ]


def test_a_deleted_model_can_be_brought_back_for_three_months() -> None:
    assert buckets["ModelsBucket"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert [rule.get("NoncurrentVersionExpiration") for rule in lifecycle_rules("ModelsBucket")] == [
        None,
        {"NoncurrentDays": 90},
    ]


def test_the_functions_read_models_and_change_none() -> None:
    models = {"Fn::Sub": "${ModelsBucket.Arn}/models/*"}
    readers = [role for role in of_type("AWS::IAM::Role") if models in [*allowed(role, "s3:GetObject")]]
    assert sorted(readers) == ["ApiRole", "FailuresRole", "SegmentRole"]
    for role in of_type("AWS::IAM::Role"):
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not [each for each in allowed(role, action) if "ModelsBucket" in json.dumps(each)]


def test_a_model_is_named_by_its_sha256() -> None:
    pattern = template["Parameters"]["Model"]["AllowedPattern"]
    assert re.fullmatch(pattern, parameters["Model"])
    assert re.fullmatch(pattern, "0123456789abcdef" * 4)
    assert not re.fullmatch(pattern, "my-model")


def lifecycle_rules(bucket: str) -> list[dict[str, Any]]:
    """Return a bucket's lifecycle rules."""
    rules: list[dict[str, Any]] = buckets[bucket]["LifecycleConfiguration"]["Rules"]
    return rules


@pytest.mark.parametrize("bucket", buckets)
def test_every_bucket_refuses_requests_without_tls(bucket: str) -> None:
    denied = statements("AWS::S3::BucketPolicy", "Bucket", bucket)[0]
    assert denied == {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [{"Fn::GetAtt": [bucket, "Arn"]}, {"Fn::Sub": f"${{{bucket}.Arn}}/*"}],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


@pytest.mark.parametrize("queue", queues)
def test_every_queue_refuses_messages_without_tls(queue: str) -> None:
    denied = statements("AWS::SQS::QueuePolicy", "Queues", queue)[-1]
    assert denied == {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Resource": {"Fn::GetAtt": [queue, "Arn"]},
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


@pytest.mark.parametrize("function", functions(template))
def test_each_function_has_its_own_role_without_managed_policies(function: str) -> None:
    properties = resources[function]["Properties"]
    assert "Policies" not in properties
    role = resources[properties["Role"]["Fn::GetAtt"][0]]["Properties"]
    assert "ManagedPolicyArns" not in role


@pytest.mark.parametrize("role", of_type("AWS::IAM::Role"))
def test_no_role_has_rights_on_all_resources(role: str) -> None:
    for policy in of_type("AWS::IAM::Role")[role]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            assert [action for action in _listed(statement["Action"]) if "*" in action] == []
            for resource in _listed(statement["Resource"]):
                named = json.dumps(resource)
                assert re.fullmatch(
                    r'\{"Fn::GetAtt": \["\w+", "Arn"\]\}'
                    r'|\{"Ref": "PlateTopic"\}'
                    r'|\{"Fn::Sub": "\$\{(\w+Bucket\.Arn\}/(\w+/)*\*|JobsTable\.Arn\}/index/\w+)"\}',
                    named,
                )


def allowed(role: str, action: str) -> list[Any]:
    """Return the resources of every statement that allows a role this action."""
    return [
        statement["Resource"]
        for policy in resources[role]["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        if action in _listed(statement["Action"])
    ]


def test_every_function_may_read_and_decrypt_the_allowed_buckets_where_there_are_any() -> None:
    policy = resources["AllowedBucketsPolicy"]
    assert policy["Condition"] == "HasAllowedBuckets"
    roles = [function["Properties"]["Role"]["Fn::GetAtt"][0] for function in functions(template).values()]
    assert sorted(role["Ref"] for role in policy["Properties"]["Roles"]) == sorted(roles)
    read, listed, decrypt = policy["Properties"]["PolicyDocument"]["Statement"]
    assert read["Action"] == ["s3:GetObject", "s3:GetObjectVersion"]
    assert (
        listed["Action"] == "s3:ListBucket"
    )  # without it a missing image is forbidden, and tried five times
    condition, asked, otherwise = decrypt["Fn::If"]
    assert (condition, asked["Action"], otherwise) == (
        "HasAllowedKeys",
        "kms:Decrypt",
        {"Ref": "AWS::NoValue"},
    )


def computed(written: Any, given: dict[str, str]) -> Any:
    """Compute Fn::Split, Fn::Join, Fn::Sub and Ref as CloudFormation does, with these parameters."""
    match written:
        case {"Fn::Split": [str(mark), text]}:
            return computed(text, given).split(mark)
        case {"Fn::Join": [str(mark), texts]}:
            return mark.join(computed(texts, given))
        case {"Fn::Sub": [str(text), names]}:
            for name, found in names.items():
                text = text.replace(f"${{{name}}}", computed(found, given))
            return text
        case {"Ref": name}:
            return given[name]
    return written


def test_the_rights_of_allowed_buckets_are_for_each_of_them_alone() -> None:
    given = {"AllowedBuckets": "lab-images,scans.of.2026", "AllowedKeys": "arn:1,arn:2"}
    arns = ["arn:aws:s3:::lab-images", "arn:aws:s3:::scans.of.2026"]
    policy = resources["AllowedBucketsPolicy"]["Properties"]["PolicyDocument"]
    read, listed, decrypt = policy["Statement"]
    assert computed(read["Resource"], given) == [f"{arn}/*" for arn in arns]
    assert computed(listed["Resource"], given) == arns
    assert computed(decrypt["Fn::If"][1]["Resource"], given) == ["arn:1", "arn:2"]
    one = given | {"AllowedBuckets": "lab-images"}
    assert computed(read["Resource"], one) == ["arn:aws:s3:::lab-images/*"]


def test_allowed_buckets_of_this_account_may_notify_the_segment_queue() -> None:
    """Without it, S3 refuses the notification that `cytomask attach` writes."""
    given = {"AllowedBuckets": "lab-images,scans.of.2026"}
    written = resources["SegmentQueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    (condition, statement, otherwise) = next(each["Fn::If"] for each in written if "Fn::If" in each)
    assert (condition, otherwise) == ("HasAllowedBuckets", {"Ref": "AWS::NoValue"})
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == {"Fn::GetAtt": ["SegmentQueue", "Arn"]}
    named = statement["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert computed(named, given) == ["arn:aws:s3:::lab-images", "arn:aws:s3:::scans.of.2026"]
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}


def test_the_docs_let_a_topic_and_a_rule_send_to_the_segment_queue_alone(tmp_path: Path) -> None:
    page = (TEMPLATE.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
    section = page.partition("### Through a topic or EventBridge")[2].partition("\n## ")[0]
    (tmp_path / "statement.yaml").write_text(section.partition("```yaml\n")[2].partition("```")[0])
    written: Any = load_template(tmp_path / "statement.yaml")
    (statement,) = written
    assert statement["Principal"] == {"Service": ["sns.amazonaws.com", "events.amazonaws.com"]}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == {"Fn::GetAtt": ["SegmentQueue", "Arn"]}
    topic, rule = statement["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert f"--topic-arn {topic} " in section
    assert f"--rule {rule.rpartition('/')[2]} " in section
    queue = queues["SegmentQueue"]["QueueName"]["Fn::Sub"].replace("${AWS::StackName}", "cytomask")
    assert section.count(f":{queue}\n") == 2


def test_functions_write_only_to_the_output_bucket() -> None:
    assert allowed("SegmentRole", "s3:PutObject") == [{"Fn::Sub": "${OutputBucket.Arn}/*"}]
    assert allowed("EvaluateRole", "s3:PutObject") == [{"Fn::Sub": "${OutputBucket.Arn}/jobs/coco/*"}]
    assert allowed("FailuresRole", "s3:PutObject") == []
    assert allowed("ApiRole", "s3:PutObject") == []


def test_evaluate_may_write_the_parts_of_a_coco_file() -> None:
    assert re.fullmatch("jobs/coco/[0-9a-f]{32}", coco_prefix(S3Object("truths", "a.json", etag="e")))


def test_evaluate_may_queue_the_images_of_a_coco_file() -> None:
    assert allowed("EvaluateRole", "sqs:SendMessage") == [{"Fn::GetAtt": ["EvaluationQueue", "Arn"]}]


@pytest.mark.parametrize("role", ["SegmentRole", "EvaluateRole", "FailuresRole", "ApiRole"])
def test_a_missing_object_can_be_told_from_a_forbidden_one(role: str) -> None:
    listed = {each["Fn::GetAtt"][0] for found in allowed(role, "s3:ListBucket") for each in _listed(found)}
    read = {each["Fn::Sub"][2:].partition(".")[0] for each in readable(role)}
    assert listed == read


def readable(role: str) -> list[Any]:
    return [each for resource in allowed(role, "s3:GetObject") for each in _listed(resource)]


def test_the_api_function_may_only_read_list_and_add_jobs_and_request_masks() -> None:
    statements = [
        (action, resource)
        for policy in resources["ApiRole"]["Properties"]["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
        for action in _listed(statement["Action"])
        for resource in _listed(statement["Resource"])
        if not action.startswith("logs:")
    ]
    table = {"Fn::GetAtt": ["JobsTable", "Arn"]}
    inputs = [bucket for bucket in buckets if bucket not in ("OutputBucket", "ModelsBucket")]
    assert statements == [
        *(("s3:GetObject", {"Fn::Sub": f"${{{bucket}.Arn}}/*"}) for bucket in inputs),
        *(("s3:ListBucket", {"Fn::GetAtt": [bucket, "Arn"]}) for bucket in [*inputs, "ModelsBucket"]),
        ("s3:GetObject", {"Fn::Sub": "${ModelsBucket.Arn}/models/*"}),
        ("dynamodb:BatchGetItem", table),
        ("dynamodb:GetItem", table),
        ("dynamodb:PutItem", table),
        ("dynamodb:Query", table),
        ("dynamodb:Query", {"Fn::Sub": "${JobsTable.Arn}/index/by_status"}),
        ("dynamodb:Query", {"Fn::Sub": "${JobsTable.Arn}/index/by_group"}),
        ("dynamodb:Query", {"Fn::Sub": "${JobsTable.Arn}/index/by_plate"}),
        ("sqs:SendMessage", {"Fn::GetAtt": ["SegmentQueue", "Arn"]}),
    ]


def test_evaluate_may_read_every_ground_truth_that_segment_finds() -> None:
    images = [each for each in readable("SegmentRole") if "ModelsBucket" not in str(each)]
    assert sorted(map(str, readable("EvaluateRole"))) == sorted(map(str, images))


def test_resources_have_no_circular_dependencies() -> None:
    graph = {name: set(_waits_for(resource)) for name, resource in resources.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("SegmentQueuePolicy") < order.index("InputBucket")
    assert "InputBucket" not in graph["SegmentQueuePolicy"] | graph["SegmentQueue"] | graph["SegmentDLQ"]


def _waits_for(item: Any) -> Iterator[str]:
    """Return the logical ids that a resource, or part of one, refers to."""
    if isinstance(item, list):
        for part in item:
            yield from _waits_for(part)
    if not isinstance(item, dict):
        return
    named = [*_listed(item.get("DependsOn", [])), item.get("Ref"), *item.get("Fn::GetAtt", [])[:1]]
    named += re.findall(r"\$\{(\w+)", json.dumps(item.get("Fn::Sub", "")))
    yield from (name for name in named if name in resources)
    for part in item.values():
        yield from _waits_for(part)


def test_the_jobs_table_has_the_keys_of_the_design() -> None:
    table = of_type("AWS::DynamoDB::Table")["JobsTable"]
    indexes = {index["IndexName"]: index for index in table["GlobalSecondaryIndexes"]}
    assert _keys(table) == {"job_id": "HASH", "record": "RANGE"}
    assert _keys(indexes["by_status"]) == {"status": "HASH", "created_at": "RANGE"}
    assert _keys(indexes["by_group"]) == {"group": "HASH", "created_at": "RANGE"}
    assert _keys(indexes["by_plate"]) == {"plate": "HASH", "place": "RANGE"}
    assert [index["Projection"] for index in indexes.values()] == [{"ProjectionType": "ALL"}] * 3
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def _keys(keyed: dict[str, Any]) -> dict[str, str]:
    return {key["AttributeName"]: key["KeyType"] for key in keyed["KeySchema"]}


def test_the_function_gets_every_setting_that_it_reads() -> None:
    told = made_up_environment(template) | {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008"}
    settings = Settings.from_environment(told)
    assert settings.jobs_table == told["JOBS_TABLE"]
    assert settings.retry_delay == parameters["RetryDelay"]
    assert settings.tries == parameters["MaxReceiveCount"]


def test_the_emulators_endpoint_is_empty_by_default() -> None:
    assert value(shared["Environment"]["Variables"]["AWS_ENDPOINT_URL"]) == ""


def test_the_stack_has_every_output_that_the_commands_read() -> None:
    assert set(template["Outputs"]) >= {
        "InputBucketName",
        "OutputBucketName",
        "GroundTruthBucketName",
        "ModelsBucketName",
        "SegmentQueueUrl",
        "EvaluationQueueUrl",
        "JobsTableName",
        "ApiUrl",
    }


def test_bucket_names_fit_for_a_stack_name_of_22_characters() -> None:
    longest = {"AWS::StackName": "s" * 22, "AWS::AccountId": "1" * 12, "AWS::Region": "ap-southeast-1"}
    for bucket in buckets.values():
        name = bucket["BucketName"]["Fn::Sub"]
        for part, text in longest.items():
            name = name.replace(f"${{{part}}}", text)
        assert re.fullmatch(r"[a-z0-9-]{3,63}", name)


@pytest.mark.parametrize("function", functions(template))
def test_logs_of_each_function_expire(function: str) -> None:
    properties = resources[function]["Properties"]
    group = resources[properties["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"]
    assert group["LogGroupName"]["Fn::Sub"] == f"/aws/lambda/{properties['FunctionName']['Fn::Sub']}"
    assert value(group["RetentionInDays"]) == 30


def test_the_emulators_copy_differs_only_in_code_and_closed_queues() -> None:
    emulated = without_local_code(template)
    copies = {
        name: emulated["Resources"][name]["Properties"] for name in (*functions(template), "CytomaskLayer")
    }
    assert copies["SegmentFunction"].pop("ImageUri") == "forwarded:latest"
    zips = [(name, "CodeUri") for name in ("EvaluateFunction", "FailuresFunction", "ApiFunction")]
    for name, field in (*zips, ("CytomaskLayer", "ContentUri")):
        assert copies[name][field] == NO_CODE
        copies[name][field] = resources[name]["Properties"][field]
    for name in functions(template):
        for event in copies[name]["Events"].values():
            assert event["Properties"].pop("Enabled", None) is (False if event["Type"] == "SQS" else None)
    budget = template["Resources"]["Budget"]
    assert emulated["Resources"] | {"Budget": budget} == template["Resources"]
    assert {name: part for name, part in emulated.items() if name != "Resources"} == {
        name: part for name, part in template.items() if name != "Resources"
    }
    assert template == load_template(TEMPLATE)


def test_every_saved_query_equals_the_file_of_its_name() -> None:
    saved = {
        query["Name"]["Fn::Sub"].removeprefix("${AWS::StackName}/"): query["QueryString"]
        for query in queries.values()
    }
    files = (TEMPLATE.parent / "infra" / "queries").glob("*.txt")
    assert saved == {file.stem: file.read_text() for file in files}
    groups = [
        {"Ref": function["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]}
        for function in functions(template).values()
    ]
    assert all(query["LogGroupNames"] == groups for query in queries.values())


def test_saved_queries_are_omitted_for_emulators() -> None:
    assert {resources[name].get("Condition") for name in queries} == {"OnAws"}
    assert template["Conditions"]["OnAws"] == {"Fn::Equals": [{"Ref": "EndpointUrl"}, ""]}


@pytest.mark.parametrize("alarm", alarms)
def test_every_alarm_notifies_the_topic_and_ignores_missing_data(alarm: str) -> None:
    assert alarms[alarm]["AlarmActions"] == [{"Ref": "AlarmTopic"}]
    assert alarms[alarm]["TreatMissingData"] == "notBreaching"


@pytest.mark.parametrize("alarm", alarms)
def test_an_alarm_goes_off_at_the_first_event_or_the_worst_value_of_an_hour(alarm: str) -> None:
    watched = alarms[alarm]
    periods = watched["EvaluationPeriods"]
    assert 1 <= watched.get("DatapointsToAlarm", periods) <= periods
    assert watched["Period"] * periods <= 3600
    statistic = watched.get("Statistic") or watched["ExtendedStatistic"]
    above = watched["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    kind = statistic, value(watched["Threshold"]), above
    match watched["MetricName"]:
        case "ApproximateAgeOfOldestMessage":
            assert kind == ("Maximum", 3600, True)
        case "Duration":
            assert kind == ("p95", parameters["SlowMilliseconds"], True)
        case "IoU":
            assert kind == ("Average", parameters["LowestIoU"], False)
            assert watched["ComparisonOperator"] == "LessThanThreshold"
        case name:
            assert kind == ("Maximum" if name.startswith("ApproximateNumber") else "Sum", 1, True)


def test_every_cause_of_a_missing_mask_has_an_alarm() -> None:
    watched = {
        (alarm["MetricName"], json.dumps(alarm.get("Dimensions", [{}])[0].get("Value")))
        for alarm in alarms.values()
    }
    assert ("RecordingsFailed", '"failures"') in watched
    assert ("Failed", '"failures"') in watched
    for name in ("Segment", "Evaluation"):
        dead = json.dumps({"Fn::GetAtt": [f"{name}DLQ", "QueueName"]})
        for state in ("Visible", "NotVisible"):
            assert (f"ApproximateNumberOfMessages{state}", dead) in watched
        waiting = json.dumps({"Fn::GetAtt": [f"{name}Queue", "QueueName"]})
        assert ("ApproximateAgeOfOldestMessage", waiting) in watched
    for name in functions(template):
        for metric in ("Errors", "Throttles"):
            assert (metric, json.dumps({"Ref": name})) in watched
    assert ("5xx", json.dumps({"Ref": "HttpApi"})) in watched
    assert {"Duration", "IoU"} <= {metric for metric, _ in watched}


def test_the_dashboard_shows_the_errors_and_the_throttles_of_every_function() -> None:
    board = json.loads(resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"])
    shown = {
        (metric[1], metric[3])
        for widget in board["widgets"]
        for metric in widget["properties"]["metrics"]
        if metric[0] == "AWS/Lambda"
    }
    for function in functions(template).values():
        name = function["Properties"]["FunctionName"]["Fn::Sub"]
        assert {("Errors", name), ("Throttles", name)} <= shown


def test_every_metric_that_dashboard_and_alarms_read_is_sent_under_that_name() -> None:
    root = TEMPLATE.parent
    files = [*(root / "functions").rglob("*.py"), *(root / "layers" / "cytomask" / "cytomask").glob("*.py")]
    code = "".join(path.read_text() for path in files)
    sent = set(re.findall(r'add_metric\("(\w+)"', code))
    filters = of_type("AWS::Logs::MetricFilter").values()
    filtered = {each["MetricName"] for one in filters for each in one["MetricTransformations"]}
    board = json.loads(resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"])
    metrics = [metric for widget in board["widgets"] for metric in widget["properties"]["metrics"]]
    shown = {name for namespace, name, *_ in metrics if not namespace.startswith("AWS/")}
    alarming = {each["MetricName"] for each in alarms.values() if isinstance(each["Namespace"], dict)}
    assert len(shown) > 15 and len(alarming) > 3
    assert filtered <= shown
    assert shown | alarming <= sent | filtered


def test_the_alarm_of_slow_batches_comes_before_the_timeout() -> None:
    assert parameters["SlowMilliseconds"] == 0.8 * 1000 * parameters["SegmentTimeout"]


def test_alarms_and_budget_of_this_account_may_publish_to_the_topic() -> None:
    """A topic's own policy replaces the default one, and a refused alarm tells nobody."""
    (statement,) = statements("AWS::SNS::TopicPolicy", "Topics", "AlarmTopic")
    assert statement == {
        "Sid": "AlarmsAndBudget",
        "Effect": "Allow",
        "Principal": {"Service": ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]},
        "Action": "sns:Publish",
        "Resource": {"Ref": "AlarmTopic"},
        "Condition": {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}},
    }


def test_every_page_that_can_be_segmented_can_be_scored() -> None:
    of_segment, of_evaluate = (
        Limits.within(int(value(resources[name]["Properties"]["MemorySize"])))
        for name in ("SegmentFunction", "EvaluateFunction")
    )
    assert of_segment.page_pixels == of_evaluate.page_pixels == 64_000_000


@pytest.mark.parametrize("function", queued)
def test_no_batch_is_larger_than_lambda_takes_without_waiting(function: str) -> None:
    assert all(1 <= mapping["BatchSize"] <= 10 for mapping in mappings(function))


def test_alarm_mail_is_off_by_default() -> None:
    assert parameters["AlarmEmail"] == ""
    assert resources["AlarmSubscription"]["Condition"] == "HasAlarmEmail"


def test_the_template_fits_into_one_deployment_request() -> None:
    assert len(json.dumps(without_local_code(template)).encode()) <= TEMPLATE_LIMIT


def test_function_names_begin_with_the_stacks_name() -> None:
    assert function_name(resources["SegmentFunction"], "cytomask") == "cytomask-segment"
    with pytest.raises(ValueError, match="may use only the variable"):
        function_name({"Properties": {"FunctionName": {"Fn::Sub": "f-${AWS::Region}"}}}, "cytomask")


def test_every_http_call_logs_its_caller_and_nothing_about_the_image() -> None:
    settings = resources["HttpApi"]["Properties"]["AccessLogSettings"]
    assert settings["DestinationArn"] == {"Fn::GetAtt": ["HttpLogGroup", "Arn"]}
    told = json.loads(settings["Format"])
    assert told["caller"] == "$context.identity.userArn"
    assert set(told) == {"requestId", "time", "caller", "route", "status", "error"}
    assert resources["HttpLogGroup"]["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_every_skipped_checkov_rule_has_a_reason() -> None:
    skipped = [
        skip
        for each in resources.values()
        for skip in each.get("Metadata", {}).get("checkov", {}).get("skip", [])
    ]
    assert len(skipped) > 30
    assert all(re.fullmatch(r"CKV_AWS_\d+", skip["id"]) for skip in skipped)
    assert [skip for skip in skipped if len(skip["comment"].split()) < 6] == []


def test_recursive_loop_detection_is_off_for_functions_that_send_to_their_own_queue() -> None:
    """Lambda ends a chain of messages after 16 rounds unless the function allows it.

    docs.aws.amazon.com/lambda/latest/dg/invocation-recursion.html
    """
    looping = set()
    for name, function in functions(template).items():
        own = [mapping["Queue"] for mapping in mappings(name)]
        role = resources[function["Properties"]["Role"]["Fn::GetAtt"][0]]["Properties"]
        for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
            sends = "sqs:SendMessage" in _listed(statement["Action"])
            if sends and any(target in own for target in _listed(statement["Resource"])):
                looping.add(name)
    assert looping == {"SegmentFunction", "EvaluateFunction"}
    allowed = {
        name
        for name, function in functions(template).items()
        if function["Properties"].get("RecursiveLoop") == "Allow"
    }
    assert allowed == looping


def test_rolling_back_the_first_deployment_removes_the_table() -> None:
    assert resources["JobsTable"]["DeletionPolicy"] == "RetainExceptOnCreate"
    assert resources["JobsTable"]["UpdateReplacePolicy"] == "Retain"


def test_on_aws_no_visibility_is_below_any_timeout_of_the_function() -> None:
    rule = template["Rules"]["Timeouts"]
    assert rule["RuleCondition"] == template["Conditions"]["OnAws"]
    values, asked = rule["Assertions"][0]["Assert"]["Fn::Contains"]
    assert asked == {"Ref": "VisibilityTimeout"}
    assert min(map(int, values)) >= template["Parameters"]["SegmentTimeout"]["MaxValue"]
    assert str(parameters["VisibilityTimeout"]) in values
    assert max(map(int, values)) <= template["Parameters"]["VisibilityTimeout"]["MaxValue"]
    assert ", ".join(values[:-1]) in rule["Assertions"][0]["AssertDescription"]


def test_a_changed_timeout_requires_a_changed_alarm_that_can_go_off() -> None:
    unchanged = {
        name: {"Fn::Equals": [{"Ref": name}, str(parameters[name])]}
        for name in ("SegmentTimeout", "SlowMilliseconds")
    }
    assert template["Rules"]["Timeouts"]["Assertions"][1]["Assert"] == {
        "Fn::Or": [unchanged["SegmentTimeout"], {"Fn::Not": [unchanged["SlowMilliseconds"]]}]
    }
    longest = template["Parameters"]["SegmentTimeout"]["MaxValue"]
    assert template["Parameters"]["SlowMilliseconds"]["MaxValue"] == longest * 1000


@pytest.mark.parametrize(
    ("names", "fit"),
    [("", True), ("lab", True), ("lab-a,lab.b", True), ("lab,", False), ("a", False), ("a1b,,b1a", False)],
)
def test_allowed_buckets_name_buckets_without_gaps(names: str, fit: bool) -> None:
    pattern = template["Parameters"]["AllowedBuckets"]["AllowedPattern"]
    assert bool(re.search(pattern, names)) == fit


@pytest.mark.parametrize(
    ("keys", "fit"), [("", True), ("arn:aws:kms:eu-west-1:1:key/a", True), ("a,", False), ("a,,b", False)]
)
def test_allowed_keys_have_no_gaps(keys: str, fit: bool) -> None:
    assert bool(re.search(template["Parameters"]["AllowedKeys"]["AllowedPattern"], keys)) == fit


def test_the_failure_query_matches_all_of_lambdas_own_reports() -> None:
    [pattern] = re.findall(r"@message like /(.*)/", resources["WhyFailedQuery"]["Properties"]["QueryString"])
    for line in LAMBDA_FAILURES:
        assert re.search(pattern, line), line
    for line in LAMBDA_NOISE:
        assert not re.search(pattern, line), line


# As Lambda writes them (docs.aws.amazon.com/lambda/latest/dg/troubleshooting-invocation.html).
LAMBDA_FAILURES = (
    "2026-11-25T10:00:00.000Z 5f1c Task timed out after 120.00 seconds",
    "RequestId: 5f1c Error: Runtime exited with error: signal: killed",
    "[ERROR] Runtime.ImportModuleError: Unable to import module 'functions.segment.app': No module named 'x'",
    "[ERROR] KeyError: 'INPUT_BUCKET'",
    "INIT_REPORT Init Duration: 10010.12 ms\tPhase: init\tStatus: timeout",
)
LAMBDA_NOISE = (
    "INIT_START Runtime Version: python:3.13.v1",
    "START RequestId: 5f1c Version: $LATEST",
    "REPORT RequestId: 5f1c\tDuration: 120.00 ms\tBilled Duration: 120 ms",
    "INIT_REPORT Init Duration: 310.12 ms\tPhase: init",
)


def test_a_budget_is_off_by_default_and_tells_the_alarm_topic() -> None:
    assert parameters["MonthlyBudget"] == 0
    budget = resources["Budget"]
    assert budget["Condition"] == "HasBudget"
    told = budget["Properties"]["NotificationsWithSubscribers"]
    assert [
        (each["Notification"]["NotificationType"], each["Notification"]["Threshold"]) for each in told
    ] == [
        ("ACTUAL", 80),
        ("FORECASTED", 100),
    ]
    assert {each["Notification"]["ComparisonOperator"] for each in told} == {"GREATER_THAN"}
    assert all(
        each["Subscribers"] == [{"SubscriptionType": "SNS", "Address": {"Ref": "AlarmTopic"}}]
        for each in told
    )
    [publishers] = resources["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert publishers["Principal"]["Service"] == ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]
