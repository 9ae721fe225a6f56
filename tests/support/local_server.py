"""A local HTTP server that replaces an internet service in tests."""

import gzip
import json
import re
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """A request; ``body`` is decompressed."""

    method: str
    path: str
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Response:
    """A response; ``content`` is sent as JSON, except bytes, which are sent unchanged."""

    content: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


class LocalServer:
    """Base class: ``respond`` answers a request. ``failures``: pattern of a request -> HTTP status of the error.

    ``errors``: tracebacks of exceptions in ``respond``, answered with status 501; tests check that there are none.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.failures: dict[str, int] = {}
        self.errors: list[str] = []
        self.lock = threading.Lock()
        self.url = ""

    def respond(self, request: Request) -> Response:
        raise NotImplementedError

    def refuse(self, status: int) -> Response:
        return Response({"error": "refused by the stand-in server"}, status)

    def describe(self, request: Request) -> str:
        """Text of a request, in which the patterns of ``failures`` are searched."""
        return f"{request.method} {request.path}"

    def answer(self, request: Request) -> Response:
        with self.lock:  # one request at a time: the state of the server needs no other locks
            self.requests.append(request)
            text = self.describe(request)
            status = next((status for pattern, status in self.failures.items() if re.search(pattern, text)), None)
            if status is not None:
                return self.refuse(status)
            try:
                return self.respond(request)
            except Exception:  # noqa: BLE001 (a test reads the list)
                self.errors.append(f"{text}\n{traceback.format_exc()}")
                return Response({"error": "unknown to the stand-in server"}, 501)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Answer requests at ``url`` until the end of the block."""
        server = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client ended with open connections
            super().handle_error(request, client_address)


def _handler(owner: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_request(self) -> None:
            response = owner.answer(Request(self.command, urlsplit(self.path).path, self.headers, self._body()))
            self.send_response(response.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(response.body))}
            for name, value in {**headers, **response.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def log_message(self, *_: Any) -> None:
            pass

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    return Handler
