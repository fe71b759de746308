"""Attacks on the page in a real browser: markup in keys, a foreign page, a rebound host, a frame."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Served
from playwright.sync_api import Browser, Page, expect

MARKUP = "<img src=x onerror=document.title='attacked'>.tif"
FOREIGN = """<!doctype html><title>foreign</title>
<form id=f method=post enctype=text/plain action="{origin}/api/downloads">
<input name='{{"kind":"masks","x":"' value='"}}'></form>
<img src="{origin}/api/jobs"><script src="{origin}/static/main.js" type=module></script>
<iframe src="{origin}/" id=frame></iframe>"""


@pytest.fixture
def foreign(served: Served) -> Iterator[str]:
    """A page of another origin on this machine, as any program here may serve one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = FOREIGN.format(origin=served.origin).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_a_key_that_is_markup_is_shown_as_text_everywhere(
    page: Page, served: Served, field_tiff: Callable[..., Path]
) -> None:
    s3 = served.stack.client("s3")
    content = field_tiff("markup.tif", seed=9).read_bytes()
    for key in (f"{MARKUP}", f"{MARKUP}/bad.tif"):
        body = content if key == MARKUP else b"no image"
        s3.put_object(Bucket=served.stack.outputs["InputBucketName"], Key=key, Body=body)
    page.goto(f"{served.origin}/images?find=onerror")
    expect(page.locator(".card", has_text="onerror").first).to_be_visible(timeout=60_000)
    page.locator(".card", has_text=MARKUP).first.click()
    expect(page.locator("h1")).to_contain_text(MARKUP)
    page.goto(f"{served.origin}/failures")
    expect(page.locator("table")).to_contain_text("onerror", timeout=60_000)
    assert "attacked" not in page.title()
    assert page.locator("img[src='x']").count() == 0


def test_no_string_becomes_markup_even_if_a_script_tried(page: Page, faults: list[str]) -> None:
    refused = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return 'done'; }"
        " catch (error) { return error.name; } }"
    )
    assert refused == "TypeError"
    faults.clear()


def test_an_inline_script_does_not_run(page: Page, faults: list[str]) -> None:
    ran = page.evaluate(
        """() => { const script = document.createElement("script");
        script.append("window.attacked = true"); document.head.append(script); return !!window.attacked; }"""
    )
    assert ran is False
    faults.clear()


def test_the_token_leaves_the_address_and_the_cookie_is_out_of_reach(page: Page, served: Served) -> None:
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""
    assert (
        page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})").find(served.session.token) < 0
    )
    (cookie,) = page.context.cookies(served.origin + "/api/")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


def test_a_foreign_page_can_neither_send_nor_read_nor_frame(
    page: Page, served: Served, foreign: str, faults: list[str]
) -> None:
    answers: list[tuple[str, int]] = []
    page.on("response", lambda answer: answers.append((answer.url, answer.status)))
    page.goto(foreign)
    read = page.evaluate(
        "async (origin) => { try {"
        " return (await fetch(origin + '/api/jobs', {credentials: 'include'})).status; }"
        " catch (error) { return String(error); } }",
        served.origin,
    )
    assert "TypeError" in str(read)
    with page.expect_response(lambda answer: answer.request.method == "POST") as posted:
        page.evaluate("document.getElementById('f').submit()")
    assert posted.value.status == 403
    reads = [status for url, status in answers if "/api/jobs" in url]
    assert set(reads) <= {401, 403}
    assert page.locator("#stack").count() == 0
    faults.clear()


def test_a_rebound_host_gets_nothing(served: Served, chromium: Browser) -> None:
    context = chromium.new_context()
    try:
        tab = context.new_page()
        answer = tab.request.get(f"{served.origin}/", headers={"Host": "evil.example"})
        assert answer.status == 421
    finally:
        context.close()


def test_without_the_token_the_page_says_what_to_do(served: Served, chromium: Browser) -> None:
    context = chromium.new_context()
    try:
        tab = context.new_page()
        for address in ("/", f"/images/{'0' * 32}", "/#token=guess"):
            tab.goto("about:blank")
            tab.goto(served.origin + address)
            expect(tab.get_by_role("alert")).to_contain_text("that `cytomask web` printed")
    finally:
        context.close()
