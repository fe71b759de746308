"""Each role of infra/policies may do what its commands ask of AWS, and nothing that none of them asks."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import ClientError
from own_models import make_model
from PIL import Image
from rights import Role, read_policy, table_of_statements
from running_stack import scores, until
from web_server import served

from cytomask.cli.main import main, make_parser
from cytomask.cli.stack import Stack
from cytomask.cli.web import account_of
from cytomask.infra import destroy, session
from cytomask.infra.children import ROOT
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.infra.session import REGION
from cytomask.jobs import Jobs
from cytomask.samples.fields import phase_contrast_field
from cytomask.table import Table

pytestmark = pytest.mark.slow
SECONDS = 120
LAB = "lab-images"
PLATE = "P7"
RIGHTS = ROOT / "docs" / "rights.md"
# The least role that each command on a stack is for. Attaching and promoting change the stack as well, for
# which CloudFormation uses the caller's rights: these commands need the deployer's too. A bucket of the lab
# needs the policy bucket.json besides.
COMMANDS = {
    "scientist": (
        "upload", "submit", "jobs", "failed", "report", "costs", "logs", "plates", "plate", "download",
        "evaluate", "policy", "web", "finetune",
    ),
    "operator": (
        "check", "redrive", "pause", "resume", "reindex", "backfill", "attach", "detach", "promote",
    ),
}  # fmt: skip
# A call over HTTP that the page's server signs; no client of boto3 makes it.
OVER_HTTP = {"execute-api:Invoke"}
Command = Callable[..., int]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    parameters = {"AllowedBuckets": LAB, "InputVersioning": "yes"}
    with emulated_stack(tmp_path_factory.mktemp("stack"), parameters=parameters) as stack:
        stack.client("s3").put_bucket_versioning(
            Bucket=stack.outputs["GroundTruthBucketName"], VersioningConfiguration={"Status": "Enabled"}
        )
        yield stack


@contextmanager
def watched(*roles: Role) -> Iterator[None]:
    """Look up every call that a command makes in these roles."""
    make = session.client

    def client(service: str, endpoint: str) -> Any:
        made = make(service, endpoint)
        for role in roles:
            made.meta.events.register("provide-client-params", role.on_call)
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "client", client)
        yield


def typed(stack: EmulatedStack) -> Command:
    """Return the command line on the stack; what a command could not do fails the test."""

    def run(*words: str) -> int:
        code = main([*words, "--endpoint-url", stack.endpoint])
        assert code == 0, words
        return code

    return run


def write_tiff(path: Path, seed: int, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, phase_contrast_field(seed, side, side).pixels)


def write_mask(path: Path, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.eye(side, dtype=np.uint8) * 255).save(path)


def test_each_command_is_for_one_role() -> None:
    parser = make_parser([])
    [commands] = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    on_a_stack = {name for name, each in commands.items() if "--stack" in each.format_help()}
    assert sorted((*COMMANDS["scientist"], *COMMANDS["operator"])) == sorted(on_a_stack)


def test_every_right_of_every_role_is_used_and_suffices(
    running: EmulatedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CYTOMASK_MODELS", str(tmp_path / "models"))
    names = ("microscope", "scientist", "operator", "deployer", "bucket")
    microscope, scientist, operator, deployer, bucket = (read_policy(name, strict=True) for name in names)
    with watched(microscope):
        write_tiff(tmp_path / "a.tif", 0)
        client, images = session.client("s3", running.endpoint), running.outputs["InputBucketName"]
        client.upload_file(str(tmp_path / "a.tif"), images, "a.tif")
        break_off(running, images, tmp_path)
    with watched(scientist, operator):  # an operator may do all of this too
        be_a_scientist(running, tmp_path / "scientist")
    with watched(operator):
        be_an_operator(running)
    filling = Role([*operator.rights, *bucket.rights], strict=True, used=operator.used)
    with watched(filling):
        backfill_a_bucket(running)
    changing = Role([*filling.rights, *deployer.rights], strict=True, used=operator.used)
    with watched(changing):
        change_the_stack(running, tmp_path / "changing")
    with watched(scientist, operator):  # now the model lies in the stack's own bucket
        typed(running)("submit", f"s3://{running.outputs['InputBucketName']}/b.tif", "--threshold", "0.6")
    leaving = Role([*deployer.rights, *bucket.rights], strict=True, used=deployer.used)
    with watched(leaving):
        assert destroy.main(["cytomask", "--endpoint-url", running.endpoint, "--yes"]) == 0

    roles = {"microscope": microscope, "scientist": scientist, "operator": operator}
    together = {"with a bucket": filling, "with the deployer's": changing, "deployer": leaving}
    missing = {name: role.denied for name, role in (roles | together).items()}
    assert {name: denied for name, denied in missing.items() if denied} == {}
    bucket.used = operator.used
    unused = [
        f"{name}: {each.sid}, {each.action} on {each.resource}"
        for name, role in (roles | {"bucket": bucket}).items()
        for each in role.rights
        if each not in role.used and each.action not in OVER_HTTP
    ]
    assert not unused, "\n".join(unused)
    written = table_of_statements(deployer)
    text = RIGHTS.read_text()
    if os.environ.get("CYTOMASK_WRITE_DOCS"):
        begin, end = text.index("| statement |"), text.index("\n## Functions")
        text = text[:begin] + written + text[end:]
        RIGHTS.write_text(text)
    assert written in text


def break_off(stack: EmulatedStack, bucket: str, folder: Path) -> None:
    """Begin an upload in parts that breaks off; boto3 throws the parts away."""
    s3, large = session.client("s3", stack.endpoint), folder / "large.txt"

    def fail(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "500", "Message": "broken off"}}, "UploadPart")

    s3.meta.events.register("provide-client-params.s3.UploadPart", fail)
    large.write_bytes(bytes(9_000_000))
    with pytest.raises(S3UploadFailedError, match="broken off"):
        s3.upload_file(str(large), bucket, "large.txt")


def be_a_scientist(stack: EmulatedStack, folder: Path) -> None:
    """Upload, submit, look at everything, correct a mask in the page, and fetch pairs to fine-tune from."""
    command, images, truths = typed(stack), folder / "images", folder / "truths"
    for day in (0, 1):
        write_tiff(images / f"{PLATE}_Phase_B2_1_0{day}d00h00m.tif", day)
    write_tiff(images / "b.tif", 3)
    write_mask(truths / "b.png")
    command("upload", str(images), "--ground-truth", str(truths))
    until(lambda: scores(stack) == 1, SECONDS)
    break_off(stack, stack.outputs["GroundTruthBucketName"], folder)
    place = f"s3://{stack.outputs['InputBucketName']}"
    command("submit", f"{place}/b.tif", "--threshold", "0.4", "--wait")
    job = newest_job(stack, "b.tif")
    for words in (
        ("jobs",), ("jobs", job), ("jobs", "--status", "REJECTED"), ("jobs", "--group", PLATE), ("failed",),
        ("report", "--html", str(folder / "report.html"), "--csv", str(folder / "report.csv")), ("costs",),
        ("logs",), ("logs", "--job", job), ("plates",), ("evaluate", "--waiting"), ("policy", "scientist"),
        ("download", "--group", PLATE, "--out", str(folder / "group")),
        ("download", job, "--out", str(folder / "job")),
        ("download", "--prefix", "b", "--out", str(folder / "prefix")),
        ("plate", PLATE, "--html", str(folder / "plate.html")),
    ):  # fmt: skip
        with suppress(AssertionError):  # some find nothing, which is 1
            command(*words)
    (folder / "coco.json").write_text(json.dumps(coco("b.tif")))
    command("evaluate", "--coco", str(folder / "coco.json"))
    command("evaluate", "--coco", f"s3://{stack.outputs['GroundTruthBucketName']}/coco.json")
    with served(account_of(Stack.connect("cytomask", stack.endpoint), stack.endpoint)) as browser:
        browser.open()
        paths = ["jobs", "plates", f"plates/{PLATE}", f"jobs/{job}/log", f"jobs/{job}/truth"]
        paths += [f"jobs/{job}/{what}" for what in ("result", "thumbnail")]
        for path in (*paths, *(f"jobs/{job}/pages/0/{layer}" for layer in ("image", "mask", "truth"))):
            assert browser.get(f"/api/{path}").status == 200, path
        begun = browser.post("/api/uploads", {"key": "large.tif", "size": 40_000_000}).json
        aborted = {"key": "large.tif", "upload_id": begun["upload_id"]}
        assert browser.post("/api/uploads/abort", aborted).status == 200
        pairs = browser.post("/api/downloads", {"kind": "pairs", "ids": [job]}).json["url"]
        assert browser.get(pairs).status == 200
        saved = browser.call(
            "POST",
            f"/api/jobs/{job}/pages/0/truth?base=empty",
            b"",
            {"Content-Type": "application/octet-stream"},
        )
        assert saved.status in (200, 409), saved.body


def coco(name: str) -> dict[str, Any]:
    outline = {"id": 1, "image_id": 1, "segmentation": [[10, 10, 40, 10, 40, 50, 10, 50]]}
    return {"images": [{"id": 1, "file_name": name, "width": 64, "height": 64}], "annotations": [outline]}


def newest_job(stack: EmulatedStack, key: str) -> str:
    rows = stack.client("dynamodb").scan(TableName=stack.outputs["JobsTableName"])["Items"]
    return next(
        str(row["job_id"]["S"])
        for row in rows
        if row["record"]["S"] == "JOB" and row.get("image", {}).get("S", "").endswith(f"/{key}")
    )


def be_an_operator(stack: EmulatedStack) -> None:
    """Check the stack, stop and start it, and send a failed job again."""
    command = typed(stack)
    command("check")
    command("pause")
    command("resume")
    table = Table(stack.client("dynamodb"), stack.outputs["JobsTableName"])
    place = f"s3://{stack.outputs['InputBucketName']}/b.tif"
    Jobs(table).fail("f" * 32, message=json.dumps({"image": place}), error="made up", now=0, image=place)
    truth = f"s3://{stack.outputs['GroundTruthBucketName']}/coco.json"
    Jobs(table).fail("e" * 32, message="{}", error="made up", now=0, ground_truth=truth)
    failed = {"status": "FAILED", "evaluation_status": "FAILED", "created_at": "2026", "message": "{}"}
    table.put({"job_id": "d" * 32, "record": "EVAL#1"} | failed)
    command("redrive")
    command("reindex")
    command("backfill", f"s3://{stack.outputs['InputBucketName']}", "--dry-run")


def backfill_a_bucket(stack: EmulatedStack) -> None:
    """Fill the stack from a bucket of the lab."""
    s3 = stack.client("s3")
    with suppress(ClientError):
        s3.create_bucket(Bucket=LAB, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket=LAB, VersioningConfiguration={"Status": "Enabled"})
    image = io.BytesIO()
    tifffile.imwrite(image, phase_contrast_field(5, 64, 64).pixels)
    s3.put_object(Bucket=LAB, Key="scans/1.tif", Body=image.getvalue())
    typed(stack)("backfill", f"s3://{LAB}/scans/", "--yes")


def change_the_stack(stack: EmulatedStack, folder: Path) -> None:
    """Attach a bucket, and promote a model."""
    command, bucket = typed(stack), "lab-attached"
    stack.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    command("attach", f"s3://{bucket}/", "--yes")
    command("detach", f"s3://{bucket}/", "--yes")
    make_model(folder / "mine", "mine")
    command("promote", str(folder / "mine"), "--yes")
    shutil.rmtree(folder)
