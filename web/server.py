"""The page's server: static files and routes behind the guard, on 127.0.0.1 alone."""

import socket
from http import HTTPStatus
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from cytomask.web.account import Account
from cytomask.web.answers import HANDLERS, problem
from cytomask.web.routes import Routes
from cytomask.web.security import API, Guard, Session

LOOPBACK = "127.0.0.1"
STATIC = Path(__file__).parent / "static"
# Every view has an address of its own; the page's router reads it.
VIEWS = (
    "/",
    "/images",
    "/images/{rest:path}",
    "/plates",
    "/plates/{rest:path}",
    "/send",
    "/failures",
    "/spending",
)


class PortTaken(Exception):
    """Another program listens on the port."""


def make_app(account: Account, session: Session) -> ASGIApp:
    """Make the ASGI application over one stack."""
    routes = Routes(account, session)
    views = [Route(path, _index, methods=["GET"]) for path in VIEWS]
    static = Mount("/static", StaticFiles(directory=STATIC))
    app = Starlette(routes=[*views, static, *routes.listed()], exception_handlers=HANDLERS)
    app.add_exception_handler(HTTPStatus.NOT_FOUND, _nothing)
    return Guard(app, session, [routes.uploads.origin])


async def _index(_: Request) -> FileResponse:
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


def _nothing(request: Request, _: Exception) -> Response:
    """Let the page itself say that there is no such view; a script gets a problem."""
    if request.url.path.startswith((API, "/static/")):
        return problem(HTTPStatus.NOT_FOUND, "NO_ROUTE", "there is nothing at this address")
    return FileResponse(STATIC / "index.html", HTTPStatus.NOT_FOUND)


def listen(port: int | None, usual: int = 0) -> socket.socket:
    """Return a socket on 127.0.0.1; port 0 takes a free one, None the usual or a free one.

    Raises:
        PortTaken: another program listens on the port.
    """
    if port is None:
        try:
            return listen(usual)
        except PortTaken:
            return listen(0)
    # asyncio turns Nagle's algorithm off only for sockets that name TCP; with it, a body waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(128)  # a browser that opens the address at once waits for the server
    except OSError as error:
        listener.close()
        raise PortTaken(f"port {port} is taken ({error.strerror}); choose another with --port") from error
    return listener


def address_of(session: Session) -> str:
    """Make the address to open: the token is behind the #, which browsers never send."""
    return f"http://{LOOPBACK}:{session.port}/#token={session.token}"


def make_server(account: Account, session: Session) -> uvicorn.Server:
    """Make a server that is ready to run on a socket of `listen`."""
    config = uvicorn.Config(
        make_app(account, session),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
