"""A proxy that has the gateway's admin listener behind a path prefix, as an operator's own would."""

from __future__ import annotations

import http.client
import http.server
import threading

PREFIX = "/ops/kateway"


class PrefixingProxy:
    """Passes on what is below ``PREFIX``, without it; anything else is 404. One that ``holds_back`` gives
    nothing of a stream before its end.
    """

    def __init__(self, admin_port: int, *, holds_back: bool = False) -> None:
        closing = self._closing = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not self.path.startswith(PREFIX):
                    self.send_error(404)
                    return
                made = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=30)
                try:
                    self._pass_on(made)
                except ConnectionError:
                    self.close_connection = True  # the page was left meanwhile
                finally:
                    made.close()

            def _pass_on(self, made: http.client.HTTPConnection) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length) if length else None
                made.request(self.command, self.path.removeprefix(PREFIX), body, dict(self.headers.items()))
                response = made.getresponse()
                stream = response.getheader("Content-Type") == "text/event-stream"
                if stream and holds_back:
                    closing.wait()
                    raise ConnectionError
                content = b"" if stream else response.read()
                self.send_response(response.status)
                for name, value in response.getheaders():
                    if name.lower() not in {"content-length", "date", "connection"}:
                        self.send_header(name, value)
                if stream:
                    self.send_header("Connection", "close")
                elif response.status not in {204, 304}:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
                while stream and not closing.is_set() and (piece := response.read1(65536)):
                    self.wfile.write(piece)

            do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, *_arguments: object) -> None:
                """Says nothing: the test tells what it misses."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self.url = f"{self.origin}{PREFIX}"

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
