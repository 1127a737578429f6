"""Claims about taking an export to a model hub, made against a small server that answers as the hub does: all
files arrive in one commit, and what goes wrong is one sentence in which no token stands."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import slimllm
from slimllm.cli import main
from slimllm.export import checkpoint, hub_upload
from tests.export.test_tiers import by_groups, prune
from tests.support.tiny_models import tiny_subject

TOKEN = "hf_aVerySecretTokenThatNobodyMaySee"


@dataclass
class Hub:
    """What was asked of the server, and what it was given; `refuses` maps the end of a path to a status."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    refuses: dict[str, int] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """The JSON answer to a request."""
        if path.endswith("/whoami-v2"):
            return {"name": "ann", "type": "user", "orgs": []}
        if path.endswith("/api/repos/create"):
            self.created.append(json.loads(body))
            return {"url": f"{self.address}/ann/small"}
        if "/preupload/" in path:
            big = {True: "lfs", False: "regular"}
            rows = [row["path"] for row in json.loads(body)["files"]]
            return {
                "files": [
                    {"path": p, "uploadMode": big[p.endswith(".safetensors")], "shouldIgnore": False}
                    for p in rows
                ]
            }
        if path.endswith("/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            send = {"upload": {"href": f"{self.address}/stored"}}
            return {"transfer": "basic", "objects": [{**row, "actions": send} for row in rows]}
        if method == "PUT":
            self.stored[hashlib.sha256(body).hexdigest()] = body
            return {}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    self.commits.append(value["summary"])
                elif line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.stored[value["oid"]]
            return {"commitUrl": f"{self.address}/ann/small/commit/1", "commitOid": "1"}
        return {"sha": "0", "siblings": [], "id": "ann/small"}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, which the client library is pointed at."""
    known = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization"):
                known.tokens.add(self.headers["Authorization"])
            path = self.path.partition("?")[0]
            status = next((code for end, code in known.refuses.items() if path.endswith(end)), 200)
            said = {"error": f"no, {TOKEN}"} if status >= 400 else known.answer(self.command, path, body)
            answer = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_HEAD = do

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", known.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield known
    server.shutdown()
    server.server_close()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An export on disk, made without the fresh process."""
    monkeypatch.setattr(checkpoint, "reload_elsewhere", lambda *_, **__: [None])
    monkeypatch.setattr(checkpoint, "compare_reload", lambda *_: 0.0)
    subject = tiny_subject()
    slimllm.save(prune(subject, by_groups(subject)), tmp_path / "small")
    return tmp_path / "small"


def test_every_file_of_an_export_arrives_in_one_commit(fake: Hub, small: Path) -> None:
    said: list[str] = []
    hub_upload.check_repository("ann/small")
    assert hub_upload.push_export(small, "ann/small", said.append) == f"{fake.address}/ann/small"
    assert fake.files == {file.name: file.read_bytes() for file in small.iterdir()}
    assert {"model.safetensors", "modeling_slim.py", "README.md"} <= fake.files.keys()
    assert len(fake.commits) == 1
    assert fake.created[0]["name"] == "small"
    assert fake.created[0].get("private", fake.created[0].get("visibility") == "private")
    assert fake.tokens == {f"Bearer {TOKEN}"}
    assert "Pushing" in said[0]
    assert not any(TOKEN in line for line in said)


@pytest.mark.slow
def test_the_command_line_exports_prunes_and_pushes_without_a_word_of_the_token(
    fake: Hub, tiny_folder: Path, page: Path, tmp_path: Path
) -> None:
    out, home = tmp_path / "out", tmp_path / "home"
    words = [
        "prune",
        "--model",
        tiny_folder,
        "--ratio",
        "0.2",
        "--text",
        page,
        "--samples",
        "4",
        "--length",
        "32",
    ]
    words += ["--align", "1", "--dtype", "float32", "--out", out, "--push", "ann/small", "--json"]
    env = {**os.environ, "HF_ENDPOINT": fake.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    env |= {"SLIMLLM_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    run = subprocess.run(
        [sys.executable, "-m", "slimllm", *map(str, words)], capture_output=True, text=True, env=env
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["pushed"] == f"{fake.address}/ann/small"
    assert fake.files == {file.name: file.read_bytes() for file in out.iterdir()}
    assert TOKEN not in run.stdout + run.stderr
    written = [file for place in (out, home) for file in place.rglob("*") if file.is_file()]
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    status = main.main([str(word) for word in words])
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    return status, said.err


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ({"/whoami-v2": 401}, "does not know the token; run 'hf auth login'"),
        ({"/create": 403, "/models/ann/small": 404}, "may not write to 'ann/small'"),
        ({"/commit/main": 403}, "may not write to 'ann/small' .*; the export stays in"),
        ({"/main": 418}, "answered with status 418; try again later; the export stays in"),
    ],
)
def test_an_export_that_the_hub_refuses_gets_one_sentence(
    refuses: dict[str, int], words: str, fake: Hub, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.refuses = refuses
    status, said = call(capsys, "push", small, "ann/small")
    last = said.splitlines()[-1]
    assert status == 2
    assert re.search(words, last)
    assert last.count(". ") == 0
    assert "Traceback" not in said
    assert small.is_dir()


def test_an_export_is_not_pushed_without_hub_token_or_name(
    fake: Hub,
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for repository in ("small", "ann/small/deep", "an n/small", "../small", ""):
        assert "OWNER/NAME" in call(capsys, "push", small, repository)[1]
    assert "leave one of the two out" in call(capsys, "push", small, "ann/small", "--offline")[1]
    (tmp_path / "other").mkdir()
    assert "no export of this program" in call(capsys, "push", tmp_path / "other", "ann/small")[1]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in call(capsys, "push", small, "ann/small")[1]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached; check the network" in call(capsys, "push", small, "ann/small")[1]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "There is no token for the model hub" in call(capsys, "push", small, "ann/small")[1]
    assert not fake.files


def test_a_push_that_cannot_work_is_refused_before_the_export(
    fake: Hub, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.refuses = {"/whoami-v2": 401}
    words = [
        "prune",
        "--model",
        tiny_folder,
        "--ratio",
        0.2,
        "--out",
        tmp_path / "out",
        "--push",
        "ann/small",
    ]
    status, said = call(capsys, *words)
    assert (status, (tmp_path / "out").exists()) == (2, False)
    assert "does not know the token" in said
    assert "Loading" not in said
