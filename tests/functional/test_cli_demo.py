"""`cytomask demo` and `cytomask up`: the emulated stack from a user's view."""

import base64
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import boto3
import numpy as np
import pytest
import tifffile
from PIL import Image

from cytomask.cli.demonstration import again
from cytomask.cli.main import main
from cytomask.infra.children import ROOT, listening_socket
from cytomask.samples.fields import phase_contrast_field
from cytomask.samples.plates import DEMO_WELLS

pytestmark = pytest.mark.slow  # each starts an emulated stack
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def pictures(html: str) -> list[tuple[str, tuple[int, ...]]]:
    """List the name and the shape of every picture, in order."""
    found = re.findall(r'<img alt="(\w+)" src="data:image/png;base64,([^"]+)">', html)
    return [(name, np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).shape) for name, data in found]


@pytest.mark.parametrize(
    ("program", "typed"), [(".venv/bin/cytomask", ".venv/bin/cytomask"), ("-m", "cytomask")]
)
def test_the_demo_names_a_command_that_can_be_typed(
    program: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "demo"])
    assert again([]) == f"{typed} demo --web"
    assert again([Path("my cells")]) == f"{typed} demo --web 'my cells'"


def test_the_demo_ends_with_a_table_and_one_page(capsys: Capture) -> None:
    assert main(["demo", "--out", "out"]) == 0
    said = capsys.readouterr().out
    head = next(line for line in said.splitlines() if line.startswith("job"))
    assert head.split()[-5:] == ["confluence", "IoU", "Dice", "ms", "flags"]
    assert len(re.findall(r"SUCCEEDED +0\.\d{3} +0\.\d{3} +0\.\d{3} +\d+$", said, re.MULTILINE)) == 7
    assert said.count("threshold 0.35") == said.count("mode resize") == 1
    assert "was rejected: INVALID_REQUEST: Object contains unknown field `treshold`" in said
    assert not [line for line in said.splitlines() if line.startswith(("{", "  {"))]

    for kind in ("mask", "overlay"):
        assert len(list(Path("out").rglob(f"*.{kind}.png"))) == 7
    lines = map(json.loads, Path("out/log.jsonl").read_text().splitlines())
    assert [line.get("message") for line in lines].count("mask_written") == 7 + 48

    assert "sending a plate: 6 wells, 48 pages, and its plate map" in said
    for well, sample in DEMO_WELLS.items():
        (line,) = re.findall(rf"^{well} .*$", said, re.MULTILINE)
        if sample.truth is None:
            assert "no growth" in line
        elif not sample.out_of_focus:
            (hours,) = re.findall(r"  ([\d.]+) h  +[\d.]+ to", line)
            assert float(hours) == pytest.approx(sample.truth.doubling_time_h, rel=0.25)
    assert "demo plate" in Path("out/plate.html").read_text(encoding="utf-8")

    assert f"page      {Path('out/index.html').resolve().as_uri()}" in said
    html = Path("out/index.html").read_text(encoding="utf-8")
    assert [name for name, _ in pictures(html)] == ["page", "mask", "overlay"] * 7
    assert {shape[:2] for _, shape in pictures(html)} == {(260, 352)}
    assert "INVALID_REQUEST" in html
    assert re.findall(r"https?://|<script", html) == []


def test_the_demo_of_a_folder_sends_that_folder_alone(capsys: Capture) -> None:
    Path("in/<b>").mkdir(parents=True)
    tifffile.imwrite("in/<b>/ü+ 1.tif", phase_contrast_field(1, 60, 80).pixels)
    Image.fromarray((phase_contrast_field(2, 60, 80).pixels >> 8).astype(np.uint8)).save("in/b.png")
    stack = [phase_contrast_field(3, 60, 80).pixels, np.full((60, 80), 7, np.uint16)]
    tifffile.imwrite("in/stack.tif", stack, photometric="minisblack")
    for name in ("in/._b.png", "in/b.czi", "in/bad.tif"):
        Path(name).write_text("no image")
    assert main(["demo", "in", "--out", "out"]) == 1
    said = capsys.readouterr()
    lines = [re.split(r" {2,}", line) for line in said.out.splitlines()]
    jobs = {line[1]: line[3] for line in lines if len(line) >= 8 and line[0] != "job"}
    done = ("<b>/ü+ 1.tif", "b.png", "stack.tif")
    assert jobs == {**dict.fromkeys(done, "SUCCEEDED"), "bad.tif": "REJECTED"}
    (flags,) = [line[8] for line in lines if len(line) > 8 and line[1] == "stack.tif"]
    assert "EMPTY=0" in flags
    assert "flags warn of a doubtful mask; docs/quality.md says what each means" in said.out
    assert "was rejected: UNREADABLE_IMAGE" in said.out
    assert "passed over 2 files: 1 ._ of macOS, 1 .czi" in said.err
    assert f"3 of 4 images got a mask; the reasons are above and in {Path('out/log.jsonl')}" in said.err
    assert {path.relative_to("out").as_posix() for path in Path("out").rglob("*.mask.png")} == {
        "<b>/ü+ 1.tif.mask.png",
        "b.png.mask.png",
        "stack.tif.p0000.mask.png",
        "stack.tif.p0001.mask.png",
    }
    html = Path("out/index.html").read_text(encoding="utf-8")
    assert "<b>/" not in html
    assert "<b>/ü+ 1.tif" in unescape(html)
    assert len(pictures(html)) == 12
    captions = re.findall(r"<figcaption>.*?</figcaption>", html, re.DOTALL)
    (empty,) = [caption for caption in captions if "stack.tif, page 1" in caption]
    assert "confluence 0.000; flagged: EMPTY=0" in " ".join(empty.split())


@pytest.mark.parametrize(
    ("given", "said"), [("missing.tif", "no such file: missing.tif"), (".", "no images were given")]
)
def test_the_demo_of_nothing_starts_nothing(given: str, said: str, capsys: Capture) -> None:
    assert main(["demo", given]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out").exists()


def test_up_on_a_port_in_use_is_a_sentence(capsys: Capture) -> None:
    with listening_socket() as taken:
        port = taken.getsockname()[1]
        assert main(["up", "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    first, last = said.err.splitlines()
    assert first.startswith("starting the emulated stack")
    assert f"127.0.0.1:{port}" in last


@pytest.fixture
def running() -> Iterator["subprocess.Popen[str]"]:
    """Run `cytomask up` in its own process."""
    command = [sys.executable, "-m", "cytomask.cli.main", "up"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_up_prints_its_endpoint_lines_to_copy_and_ready(
    running: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running.stdout
    lines: list[str] = []
    while not lines or lines[-1] not in ("ready", ""):
        lines.append(running.stdout.readline().rstrip("\n"))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", lines[0])
    outputs = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]\w+=", line))
    assert {"InputBucketName", "OutputBucketName", "SegmentQueueUrl", "JobsTableName", "ApiUrl"} <= set(
        outputs
    )
    assert lines[-1] == "ready"
    (page,) = (line.removeprefix("page=") for line in lines if line.startswith("page="))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{43}", page)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(page.partition("#")[0]) as answer:
        assert b"<title>cytomask</title>" in answer.read()

    (export,) = (line for line in lines if line.startswith("export "))
    variables = dict(pair.split("=", 1) for pair in shlex.split(export)[1:])
    assert variables["AWS_ENDPOINT_URL"] == lines[0]
    assert variables["NO_PROXY"] == "127.0.0.1,localhost"
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    stacks = boto3.Session().client("cloudformation").describe_stacks(StackName="cytomask")["Stacks"]
    assert stacks[0]["StackStatus"] == "CREATE_COMPLETE"

    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert said.splitlines()[0].startswith("starting the emulated stack")
    assert said.splitlines()[-1] == "stopped"
