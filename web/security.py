"""Who may talk to the page's server: one browser on this machine that knows the session's token.

The server holds the user's AWS rights, so a page of another origin, a host name that was rebound to
127.0.0.1 and a guess at the token must all get nothing. docs/web.md lists the threats and their tests.
"""

import asyncio
import hmac
import secrets
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cytomask.web.answers import problem

SAFE = frozenset({"GET", "HEAD"})
API = "/api/"
EXCHANGE = "/api/session"
GUESS_SECONDS = 0.5  # each wrong token waits, one after another


class Session:
    """The token in the address that is printed, and the cookie that it is exchanged for."""

    def __init__(self, port: int, token: str | None = None) -> None:
        """Make both anew; `port` names the cookie, because browsers share cookies between a host's ports."""
        self.port = port
        self.token = token or secrets.token_urlsafe(32)
        self._value = secrets.token_urlsafe(32)
        self._guesses = asyncio.Lock()

    @property
    def cookie_name(self) -> str:
        """One for each port."""
        return f"cytomask-{self.port}"

    @property
    def hosts(self) -> frozenset[str]:
        """What a `Host` header may say."""
        return frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})

    @property
    def cookie(self) -> str:
        """The `Set-Cookie` header. It is not `Secure`, because 127.0.0.1 is served without TLS."""
        return f"{self.cookie_name}={self._value}; Path=/api/; HttpOnly; SameSite=Strict"

    async def accepts_token(self, token: str) -> bool:
        """Compare a token with the session's. Wrong tokens wait in a queue, so that guessing is slow."""
        if hmac.compare_digest(token.encode(), self.token.encode()):
            return True
        async with self._guesses:
            await asyncio.sleep(GUESS_SECONDS)
        return False

    def is_open(self, cookies: str) -> bool:
        """Tell whether a `Cookie` header holds the session's cookie."""
        try:
            found = SimpleCookie(cookies).get(self.cookie_name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._value.encode())


class Guard:
    """ASGI middleware that checks every request before a route sees it, and marks every answer."""

    def __init__(self, app: ASGIApp, session: Session, upload_origins: Iterable[str]) -> None:
        """Guard `app`; the page may send uploads to `upload_origins`, the input bucket's."""
        self._app = app
        self._session = session
        self._headers = _headers(upload_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with a reason."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it is accepted, this answers 403
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                if scope["path"].startswith(API):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope)
        await (problem(*refusal)(scope, receive, marked) if refusal else self._app(scope, receive, marked))

    def _refusal(self, scope: Scope) -> tuple[HTTPStatus, str, str] | None:
        """Find what forbids this request: status, code and sentence; None if nothing does."""
        headers = Headers(scope=scope)
        host, method, path = headers.get("host", ""), scope["method"], scope["path"]
        if len(headers.getlist("host")) != 1 or host not in self._session.hosts:
            return (
                HTTPStatus.MISDIRECTED_REQUEST,
                "FOREIGN_HOST",
                "this server answers to 127.0.0.1 alone; open the address that `cytomask web` printed",
            )
        origin = headers.get("origin")
        if (origin is None and method not in SAFE) or origin not in (None, f"http://{host}"):
            return HTTPStatus.FORBIDDEN, "FOREIGN_ORIGIN", "the request comes from another page"
        if not path.startswith(API):
            return None
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return HTTPStatus.FORBIDDEN, "FOREIGN_ORIGIN", "the request comes from another site"
        if (method, path) == ("POST", EXCHANGE) or self._session.is_open(headers.get("cookie", "")):
            return None
        return (
            HTTPStatus.UNAUTHORIZED,
            "NO_SESSION",
            "this browser has no session; open the address that `cytomask web` printed",
        )


def _headers(upload_origins: Iterable[str]) -> Mapping[str, str]:
    policy = {
        "default-src": "'self'",
        "connect-src": " ".join(["'self'", *upload_origins]),
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",  # no string becomes markup, whatever a key is called
        "trusted-types": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
