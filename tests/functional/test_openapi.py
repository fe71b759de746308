"""docs/openapi.yaml against the handlers: schemathesis generates requests and checks the answers."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from examples import examples
from factories import INPUT, ground_truth, stack_of, tiff
from functions_on_moto import HttpDoor
from hypothesis import settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig

from cytomask import errors, http
from cytomask.addresses import S3_URI
from cytomask.infra.template import load_template, routes
from cytomask.records import STATUSES

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
EXAMPLE = "plate 1/a.tif"
# Codes that end evaluations and dead letters, but never a call.
OF_NO_CALL = {
    "INVALID_PLATE_MAP",
    "NO_BACKGROUND",
    "NOTHING_DRAWN",
    "GROUND_TRUTH_MISMATCH",
    "IMAGE_NOT_NAMED",
    "MASK_REPLACED",
    "TIME_SHORT",
    "TRIES_USED_UP",
    "UNREADABLE_COCO",
}
document: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text(encoding="utf-8"))

CHECKED = {
    # 403, 404 and 422 are for facts that no schema can express: whether a bucket is served, whether there is
    # a job or image, and what it shows.
    "positive_data_acceptance": {"expected-statuses": [200, 202, 403, 404, 422]},
}
# Routes that are not there are API Gateway's matter.
DOCUMENTED: dict[str, Any] = {"coverage": {"unexpected-methods": []}}
# A cursor cannot be generated, and a request needs either status or group.
LISTS = {"include-operation-id": "jobs", "checks": {"positive_data_acceptance": {"enabled": False}}}


IMAGES = ("image/tiff", "image/png", "image/jpeg", "application/octet-stream")
contents = st.one_of(
    st.binary(max_size=64), st.sampled_from([tiff(), stack_of(2), tiff()[:1000], ground_truth()])
)
for kind in IMAGES:
    schemathesis.openapi.media_type(kind, contents)


@schemathesis.serializer(*IMAGES)
def as_it_is(_context: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


schema = schemathesis.openapi.from_dict(
    document | {"security": []},  # so are signatures
    config=SchemathesisConfig.from_dict({"checks": CHECKED, "phases": DOCUMENTED, "operations": [LISTS]}),
)


class Served:
    """Forward to the running test's application, because schemathesis needs one before it exists."""

    application: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return self.application(*arguments)


schema.app = Served()


@pytest.fixture
def served(http: HttpDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    http.stack.upload(EXAMPLE, tiff())
    monkeypatch.setattr(Served, "application", staticmethod(http.application))


@schema.hook("filter_case")
def is_said_in_full(_context: Any, case: Any) -> Any:
    """Remove values that only the schemas allow: 3.0 for an integer, reversed ranges, two sizes."""
    given = case.body if isinstance(case.body, dict) else {}
    if {"min_size_px", "min_size_um2"} <= given.keys() | dict(case.query or {}).keys():
        return False
    for pages in (given.get("pages"), dict(case.query or {}).get("pages")):
        first, _, last = str(pages).partition("-")
        if isinstance(pages, float) or (first.isdecimal() and last.isdecimal() and int(last) < int(first)):
            return False
    return not any(isinstance(given.get(name), float) for name in ("channel", "min_size_px"))


@schema.hook("map_body")
def is_of_the_stack(_context: Any, body: bytes) -> Any:
    """Put every other image into a served bucket; otherwise every answer would be 403."""
    if isinstance(body, dict):
        for name in ("image", "image_path"):
            found = S3_URI.fullmatch(str(body.get(name)))
            if found and len(found["key"]) % 2:
                body = body | {name: f"s3://{INPUT}/{found['key']}"}
    return body


@pytest.mark.hypothesis  # `make test-slow` runs it at length
@pytest.mark.usefixtures("served")
@schema.parametrize()
@settings(max_examples=examples(30))
def test_every_answer_is_one_that_the_document_promises(case: Any) -> None:
    answer = case.call_and_validate()
    promised = document["paths"][case.path][case.method.lower()]["responses"]
    assert str(answer.status_code) in promised


def test_the_document_has_the_routes_of_the_template() -> None:
    described = {
        f"{method.upper()} {path}" for path, operations in document["paths"].items() for method in operations
    }
    assert described == {f"{method} {path}" for _, method, path in routes(load_template())}


def test_the_document_has_every_code_that_a_call_can_be_answered_with() -> None:
    def codes(kind: Any) -> Any:
        own = {kind.code} if "code" in vars(kind) else set()
        return own.union(*map(codes, kind.__subclasses__()))

    named = set(document["components"]["schemas"]["Code"]["enum"])
    assert named == codes(errors.CytomaskError) - OF_NO_CALL


def test_the_document_has_the_statuses_of_jobs_and_the_limit_of_a_body() -> None:
    assert document["components"]["schemas"]["Status"]["enum"] == list(STATUSES)
    assert f"{http.LARGEST_BODY:,} bytes" in document["paths"]["/seg_mask"]["post"]["description"]


def test_the_example_of_the_document_is_the_image_that_is_tried() -> None:
    assert document["components"]["schemas"]["S3Uri"]["examples"] == [f"s3://{INPUT}/{EXAMPLE}"]
