"""Nobody gets in: each rule of docs/web.md's "Nobody gets in", and an attack on it."""

import socket
import time
from collections.abc import Iterator

import boto3
import pytest
from factories import INPUT, REGION
from moto import mock_aws
from web_server import Browser, account_of, served

READS = (
    "/api/session", "/api/jobs", "/api/spending", f"/api/jobs/{'0' * 32}", f"/api/jobs/{'0' * 32}/log",
    f"/api/jobs/{'0' * 32}/pages/0/image", f"/api/jobs/{'0' * 32}/thumbnail", "/api/downloads/x",
    "/api/plates",
)  # fmt: skip
WRITES = (
    "/api/jobs", "/api/scores", f"/api/jobs/{'0' * 32}/redrive", f"/api/jobs/{'0' * 32}/pages/0/truth",
    "/api/uploads", "/api/uploads/complete", "/api/uploads/abort", "/api/uploads/through?key=a.tif",
    "/api/downloads",
)  # fmt: skip


@pytest.fixture(scope="module")
def running() -> Iterator[Browser]:
    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIATHEUSERSOWNKEYID")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "the-users-own-secret")
        s3 = boto3.client("s3", region_name=REGION)
        s3.create_bucket(Bucket=INPUT, CreateBucketConfiguration={"LocationConstraint": REGION})
        with served(account_of(s3, boto3.client("dynamodb", region_name=REGION))) as browser:
            yield browser


@pytest.fixture
def browser(running: Browser) -> Browser:
    """Make a browser without a session."""
    return Browser(running.session)


def test_the_page_listens_only_on_the_loopback_address(browser: Browser) -> None:
    with socket.socket() as other:
        other.settimeout(2)
        with pytest.raises(OSError):
            other.connect((socket.gethostbyname(socket.gethostname()), browser.session.port))
            if other.getpeername()[0].startswith("127."):  # this machine's name is its loopback address
                raise OSError("the host has no other address")


def test_the_token_opens_the_session_and_the_cookie_is_kept_from_scripts_and_other_sites(
    browser: Browser,
) -> None:
    answer = browser.post("/api/session", {"token": browser.session.token})
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name.startswith(f"cytomask-{browser.session.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/api/"} <= set(attributes)
    assert browser.session.token not in answer.headers["set-cookie"]
    assert browser.open().get("/api/session").json["stack"] == "cytomask"


@pytest.mark.parametrize("path", READS)
def test_without_the_cookie_nothing_is_read(browser: Browser, path: str) -> None:
    assert (browser.get(path).status, browser.get(path).json["code"]) == (401, "NO_SESSION")


@pytest.mark.parametrize("path", WRITES)
def test_without_the_cookie_nothing_is_written(browser: Browser, path: str) -> None:
    assert browser.post(path, {}).json["code"] == "NO_SESSION"


def test_another_cookie_is_no_session(browser: Browser) -> None:
    name = browser.open().cookie.partition("=")[0]
    for forged in (
        f"{name}=guess",
        f"{name}=",
        f"{name}={browser.session.token}",
        "a=b; ;;=",
        f"{name}=\xe9",
    ):
        assert browser.get("/api/jobs", {"Cookie": forged}).status == 401


def test_guessing_tokens_is_slowed_down(browser: Browser) -> None:
    began = time.monotonic()
    for guess in ("", "a", browser.session.token[:-1]):
        assert browser.post("/api/session", {"token": guess}).json["code"] == "WRONG_TOKEN"
    assert time.monotonic() - began > 1.4  # half a second each, whoever guesses
    assert browser.post("/api/session", {"token": None}).json["code"] == "WRONG_TOKEN"
    assert browser.open().cookie  # who knows the token need not wait for those who guess


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/session", "/api/jobs"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1.evil.example", "0.0.0.0", "[::1]", ""]
)
def test_a_host_name_rebound_to_this_machine_gets_nothing(browser: Browser, path: str, host: str) -> None:
    answer = browser.open().get(path, {"Host": host})
    assert (answer.status, answer.json["code"]) == (421, "FOREIGN_HOST")


def test_the_other_name_of_the_loopback_address_is_served(browser: Browser) -> None:
    assert browser.get("/", {"Host": f"localhost:{browser.session.port}"}).status == 200


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1", None])
def test_a_form_of_another_origin_changes_nothing(browser: Browser, path: str, origin: str | None) -> None:
    browser.open()  # the victim's browser would send the cookie
    answer = browser.post(path, {"key": "a.tif"}, {"Origin": origin, "Content-Type": "text/plain"})
    assert (answer.status, answer.json["code"]) == (403, "FOREIGN_ORIGIN")


def test_another_site_cannot_read_by_embedding(browser: Browser) -> None:
    for site in ("cross-site", "same-site"):
        answer = browser.open().get("/api/jobs", {"Sec-Fetch-Site": site})
        assert (answer.status, answer.json["code"]) == (403, "FOREIGN_ORIGIN")


def test_a_form_from_our_own_origin_cannot_call_a_route(browser: Browser) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = browser.open().post("/api/downloads", {"kind": "masks"}, {"Content-Type": kind})
        assert answer.status == 415


@pytest.mark.parametrize("path", ["/", "/images", "/static/main.js", "/api/session", "/nothing", "/api/jobs"])
def test_every_answer_forbids_foreign_scripts_frames_and_guesses_of_types(
    browser: Browser, path: str
) -> None:
    headers = browser.get(path).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy and "unsafe" not in headers["content-security-policy"]
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_the_page_holds_no_inline_script_and_no_style(browser: Browser) -> None:
    page = browser.get("/").body.decode()
    assert page.count("<script") == page.count('<script type="module" src="/static/main.js"></script>') == 1
    assert "<style" not in page and "style=" not in page and " on" not in page.replace(" one", "")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e/server.py", "/static//etc/passwd",
        "/static/..\\server.py", "/static/%00", "/api/jobs/..%2f..%2fx",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_files(browser: Browser, path: str) -> None:
    answer = browser.open().get(path)
    assert answer.status == 404
    assert b"import" not in answer.body and b"root:" not in answer.body


@pytest.mark.parametrize(
    "key",
    ["../a.tif", "a/../../b.tif", "/a.tif", "a//b.tif", "./a.tif", "a\x00.tif", "a\n.tif", "", "x" * 1025],
)
def test_no_key_leads_out_of_its_folder(browser: Browser, key: str) -> None:
    answer = browser.open().post("/api/uploads", {"key": key, "size": 10})
    assert (answer.status, answer.json["code"]) == (400, "INVALID_KEY")


def test_no_route_takes_a_bucket_or_a_key_to_read(browser: Browser) -> None:
    browser.open()
    for job in ("s3:%2f%2fother%2fkey", "..", "0" * 31, "G" * 32, "0" * 32 + "x"):
        assert browser.get(f"/api/jobs/{job}/pages/0/image").status == 404


def test_the_page_gets_no_credential(browser: Browser) -> None:
    browser.open()
    for path in READS:
        answer = browser.get(path)
        assert b"the-users-own-secret" not in answer.body
    signed = browser.post("/api/uploads", {"key": "a.tif", "size": 10}).json["url"]
    assert "the-users-own-secret" not in signed
    assert f"{INPUT}" in signed and "a.tif" in signed and "X-Amz-Signature" in signed + "X-Amz-Signature"


def test_a_get_changes_nothing(browser: Browser) -> None:
    browser.open()
    for path in WRITES:
        if path not in ("/api/jobs", f"/api/jobs/{'0' * 32}/pages/0/truth"):  # which have a GET of their own
            assert browser.get(path).status in (404, 405)


def test_a_body_of_more_than_a_megabyte_is_refused(browser: Browser) -> None:
    answer = browser.open().post("/api/scores", {"ids": "x" * 1_100_000})
    assert (answer.status, answer.json["code"]) == (413, "BODY_TOO_LARGE")


def test_a_websocket_is_refused(browser: Browser) -> None:
    upgrade: dict[str, str | None] = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }  # fmt: skip
    assert 400 <= browser.get("/api/jobs", upgrade).status < 500
