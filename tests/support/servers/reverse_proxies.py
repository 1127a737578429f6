"""Run reverse proxies in front of the app: a small one of our own, and nginx if it is installed."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.serving import free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""
RECIPE = {  # what Gradio's own guide sets
    "Host": "$host",
    "X-Forwarded-Host": "$host",
    "X-Forwarded-Proto": "$scheme",
    "X-Forwarded-For": "$proxy_add_x_forwarded_for",
}


@dataclass(frozen=True)
class Way:
    """How a proxy passes requests on.

    `folder` is the path at which it serves, and `strip` says whether it removes that path. `headers` are
    those that it sets, by nginx's variables or as they are. Without any, the Host is that of the app, and
    nothing identifies the visitor, as with nginx's defaults.
    """

    folder: str = ""
    strip: bool = True
    headers: tuple[tuple[str, str], ...] = ()


WAYS = {
    "defaults": Way(),
    "recipe": Way(headers=tuple(RECIPE.items())),
    "sub-path": Way("/slim"),
    "sub-path kept, recipe": Way("/slim", strip=False, headers=tuple(RECIPE.items())),
}


@contextlib.contextmanager
def small_proxy(upstream: tuple[str, int], way: Way) -> Iterator[int]:
    """Yield the port of a proxy of our own in front of `upstream`, which is (host, port)."""

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            path = self.path.removeprefix(way.folder) if way.strip else self.path
            headers = {**self.headers, "Host": "{}:{}".format(*upstream), "Connection": "close"}
            known = {"$host": self.headers["Host"].split(":")[0], "$scheme": "http"}
            known["$proxy_add_x_forwarded_for"] = ", ".join(
                [*filter(None, [self.headers.get("X-Forwarded-For")]), self.client_address[0]]
            )
            headers |= {name: known.get(value, value) for name, value in way.headers}
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            ahead = http.client.HTTPConnection(*upstream, timeout=60)
            ahead.request(self.command, path, body, headers)
            answer = ahead.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(OSError):
                while part := answer.read1(65536):
                    self.wfile.write(part)
                    self.wfile.flush()
            ahead.close()

        do_GET = do_POST = do_HEAD = pass_on

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def location(upstream: tuple[str, int], way: Way) -> str:
    """Return the location block of nginx's configuration for one way."""
    target = "http://{}:{}".format(*upstream) + ("/" if way.folder and way.strip else "")
    lines = [f"proxy_set_header {name} {value};" for name, value in way.headers]
    return f"location {way.folder}/ {{ proxy_pass {target}; {' '.join(lines)} }}"


@contextlib.contextmanager
def nginx(upstream: tuple[str, int], way: Way, folder: Path) -> Iterator[int]:
    """Yield the port of an nginx in front of `upstream`, which is (host, port)."""
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {places}\n"
        f"server {{ listen 127.0.0.1:{port}; {location(upstream, way)} }} }}\n"
    )
    running = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(file)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        running.terminate()
        running.wait(10)
