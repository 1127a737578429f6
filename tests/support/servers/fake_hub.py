"""Answer as the model hub does, from folders of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """A hub with one folder of files per repository; `sent` counts the files that were fetched.

    A data set of the same name holds the same files. `asked` holds the revisions that were asked for.
    """

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories, self.sent, self.gated = repositories, Counter[str](), False
        self.asked: set[str] = set()

    def names(self, repository: str) -> list[str]:
        """Return the files of a repository."""
        folder = self.repositories[repository]
        return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())

    def commit(self, repository: str) -> str:
        """Return the commit of a repository, which changes with its files."""
        return hashlib.sha1(repr(self.names(repository)).encode()).hexdigest()

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers for a path."""
        if self.gated:
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        plain = path.removeprefix("/api/models").removeprefix("/api/datasets").removeprefix("/datasets")
        name = next((name for name in self.repositories if plain.startswith(f"/{name}")), None)
        if name is None:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        kind, _, rest = plain.removeprefix(f"/{name}").lstrip("/").partition("/")
        revision = rest.partition("/")[0] if kind in ("revision", "resolve") else ""
        self.asked |= {revision} - {""}
        folder, names = self.repositories[name], self.names(name)
        commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else self.commit(name)
        if path.startswith("/api/"):
            rows: Any = {"id": name, "sha": commit, "siblings": [{"rfilename": each} for each in names]}
            if kind == "tree":
                sizes = {each: (folder / each).stat().st_size for each in names}
                rows = [{"type": "file", "path": n, "size": size, "oid": n} for n, size in sizes.items()]
            return 200, json.dumps(rows).encode(), {}
        file = rest.partition("/")[2]
        if kind != "resolve" or file not in names:
            code = "EntryNotFound" if kind == "resolve" else "RepoNotFound"
            return 404, b"{}", {"X-Error-Code": code, "X-Repo-Commit": commit}
        body = (folder / file).read_bytes()
        return 200, body, {"ETag": hashlib.sha256(body).hexdigest(), "X-Repo-Commit": commit}


@contextlib.contextmanager
def serve_hub(hub: Hub) -> Iterator[str]:
    """Yield the address of a server that answers for a hub."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            path = self.path.partition("?")[0]
            status, body, headers = hub.answer(path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                hub.sent[path.rpartition("/")[2]] += 1
                self.wfile.write(body)

        do_GET = do_HEAD = do

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
