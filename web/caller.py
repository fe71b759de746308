"""Call the stack's documented HTTP API (docs/openapi.yaml), signed with the user's own credentials."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

JSON = "application/json"
SECONDS = 30  # HttpApi's own limit


class ApiUnreachable(Exception):
    """The HTTP API does not answer, or the user's credentials are missing or expired."""


@dataclass(frozen=True)
class Answer:
    """What the API said: the HTTP status, the body's type and the body."""

    status: int
    kind: str
    body: bytes

    def json(self) -> Any:
        """Decode the body; raise ApiUnreachable if it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise ApiUnreachable(f"the API answered {self.status} without JSON") from error


class Caller:
    """Sends one request at a time to the API; safe to share between threads."""

    def __init__(self, url: str, region: str, session: Any = None) -> None:
        """Call `url`, the stack's output `ApiUrl`.

        Args:
            url: without a slash at its end.
            region: to sign for.
            session: a boto3 session whose credentials sign each call, so that SSO's are renewed; None calls
                unsigned, as the emulated stack has it.
        """
        self._url = url.rstrip("/")
        self._region = region
        self._session = session
        proxies = get_environ_proxies(self._url) if session else None
        self._http = URLLib3Session(proxies=proxies, timeout=SECONDS)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        content: Any = None,
        accept: str = JSON,
    ) -> Answer:
        """Call a route and return its answer, whatever its status; raise ApiUnreachable."""
        url = f"{self._url}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": accept} | ({} if content is None else {"Content-Type": JSON})
        body = b"" if content is None else msgspec.json.encode(content)
        request = AWSRequest(method, url, headers, body)
        try:
            if self._session is not None:
                self._sign(request)
            answer = self._http.send(request.prepare())
        except BotoCoreError as error:
            raise ApiUnreachable(f"the stack's API cannot be called: {error}") from error
        kind = answer.headers.get("content-type", "").partition(";")[0]
        return Answer(answer.status_code, kind, answer.content)

    def _sign(self, request: AWSRequest) -> None:
        credentials = self._session.get_credentials()
        if credentials is None:
            raise ApiUnreachable("AWS credentials are missing; run `aws configure` or `aws sso login`")
        SigV4Auth(credentials.get_frozen_credentials(), "execute-api", self._region).add_auth(request)
