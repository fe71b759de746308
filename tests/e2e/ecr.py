"""Give the one answer of ECR that `sam deploy` needs and ministack gives differently: where Docker logs in.

The registry that it names is ministack's own, on 127.0.0.1, where Docker pushes without TLS.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

from account import LOOPBACK


@contextmanager
def login_to(registry: str) -> Iterator[str]:
    """Serve `GetAuthorizationToken` for a registry, HOST:PORT; yield the endpoint."""
    authorization = {
        "authorizationToken": base64.b64encode(b"AWS:any").decode(),
        "expiresAt": 2e9,
        "proxyEndpoint": f"http://{registry}",
    }
    body = json.dumps({"authorizationData": [authorization]}).encode()

    class Ecr(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((LOOPBACK, 0), Ecr) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{LOOPBACK}:{server.server_port}"
        server.shutdown()
