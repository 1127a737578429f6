"""Claims about models from a hub, made against a small server that answers as the hub does: only what is
needed is fetched, and only once; what is larger than the memory is read layer by layer; of what is refused no
weight is fetched."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import torch

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.models import hub_download, loading, offload_loading
from slimllm.models.layer_offload import is_offloaded
from tests.support.tiny_models import tiny_model, tiny_tokenizer
from ui.jobs.worker import Job
from ui.session.registry import Registry
from ui.session.settings import SessionSettings
from ui.tasks import work

NAME = "ann/tiny"


class Hub:
    """A hub with one repository, the files of a folder; `sent` counts what was fetched of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.sent, self.gated = folder, Counter[str](), False

    @property
    def names(self) -> list[str]:
        return sorted(str(f.relative_to(self.folder)) for f in self.folder.rglob("*") if f.is_file())

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(self.names).encode()).hexdigest()

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers for a path; a data set of the name holds the same files."""
        path = path.removeprefix("/datasets")
        base = f"/{NAME}/resolve/"
        if self.gated:
            return 403, b"{}", {"X-Error-Code": "GatedRepo"}
        if path.startswith(f"/api/models/{NAME}/tree/"):
            sizes = {name: (self.folder / name).stat().st_size for name in self.names}
            rows = [{"type": "file", "path": n, "size": size, "oid": n} for n, size in sizes.items()]
            return 200, json.dumps(rows).encode(), {}
        if path.startswith(f"/api/models/{NAME}"):
            rows = [{"rfilename": name} for name in self.names]
            return 200, json.dumps({"id": NAME, "sha": self.commit, "siblings": rows}).encode(), {}
        name = path.removeprefix(base).partition("/")[2]
        if not path.startswith(base) or name not in self.names:
            code = "EntryNotFound" if path.startswith(base) else "RepoNotFound"
            return 404, b"{}", {"X-Error-Code": code, "X-Repo-Commit": self.commit}
        body = (self.folder / name).read_bytes()
        return 200, body, {"ETag": hashlib.sha256(body).hexdigest(), "X-Repo-Commit": self.commit}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, which the client library is pointed at, with a tiny model in several files."""
    known = Hub(tmp_path / "repository")
    tiny_model("llama").save_pretrained(known.folder, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(known.folder)
    (known.folder / "pytorch_model.bin").write_bytes(b"pickled")
    (known.folder / "consolidated.safetensors").write_bytes(b"the same once more")

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            path = self.path.partition("?")[0]
            status, body, headers = known.answer(path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                known.sent[path.rpartition("/")[2]] += 1
                self.wfile.write(body)

        do_GET = do_HEAD = do

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, cache = f"http://127.0.0.1:{server.server_port}", str(tmp_path / "cache")
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": cache,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    yield known
    server.shutdown()
    server.server_close()


def test_a_hub_model_is_fetched_once_and_is_the_same_offline(fake: Hub) -> None:
    said: list[str] = []
    subject = loading.load_model(NAME, dtype="float32", device="cpu", say=said.append)
    local = loading.load_model(str(fake.folder), dtype="float32", device="cpu")
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        assert torch.equal(subject.model(ids).logits, local.model(ids).logits)
    assert subject.source == NAME
    assert any(NAME in words for words in said)
    shards = {name for name in fake.names if name.startswith("model-")}
    assert len(shards) > 1
    assert {name: fake.sent[name] for name in shards} == dict.fromkeys(shards, 1)
    assert not fake.sent["pytorch_model.bin"]
    assert not fake.sent["consolidated.safetensors"]
    fake.sent.clear()
    loading.load_model(NAME, dtype="float32", device="cpu")
    loading.load_model(NAME, dtype="float32", device="cpu", offline=True)
    assert not any(name in fake.sent for name in shards)


def test_a_fetch_is_told_and_can_be_stopped_in_the_middle(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_download, "EVERY", 0.0)
    registry, said = Registry(settings=SessionSettings("cpu", "float32")), list[str]()
    session, come, plain = registry.open(None), threading.Event(), Job.say_unless_stopped

    def say_unless_stopped(job: Job, words: str) -> None:
        said.append(words)
        if "have come" in words:
            come.set()
            job.stopping.wait(20)
        plain(job, words)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "say_unless_stopped", say_unless_stopped)
        job = work.start_load(registry, session, NAME)
        assert come.wait(20)
        registry.worker.cancel(job)
        assert job.finished.wait(20)
    assert (job.state, job.error, session.loaded) == ("stopped", "", None)
    assert any(re.fullmatch(rf"Fetching '{NAME}': \d of \d MiB have come.", words) for words in said)
    again = work.start_load(registry, session, NAME)
    assert again.finished.wait(20)
    assert again.state == "done", again.error
    assert fake.sent["model.safetensors.index.json"] == 1


@pytest.mark.usefixtures("fake")
def test_a_hub_model_larger_than_the_memory_is_read_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loading.load_model(NAME, dtype="float32", device="cpu")
    monkeypatch.setattr(offload_loading, "available_mib", lambda _: 0.1)
    offloaded = loading.load_model(NAME, dtype="float32", device="cpu")
    assert is_offloaded(offloaded.model)
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        assert torch.equal(offloaded.model(ids).logits, whole.model(ids).logits)


def test_no_weight_is_fetched_of_what_is_refused(fake: Hub) -> None:
    config = json.loads((fake.folder / "config.json").read_text())
    (fake.folder / "config.json").write_text(json.dumps({**config, "model_type": "mixtral"}))
    with pytest.raises(Refusal, match="mixtral"):
        loading.load_model(NAME)
    assert not any(name.endswith(".safetensors") for name in fake.sent)


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model-00002-of-*", "lacks 1 of its weight files, model-00002"),
        ("model*.safetensors*", "holds no .safetensors weights"),
        ("*", "was not found locally or on the model hub"),
    ],
)
def test_what_a_repository_lacks_is_one_sentence(fake: Hub, gone: str, words: str) -> None:
    for file in fake.folder.glob(gone):
        file.unlink()
    with pytest.raises(Refusal, match=words):
        loading.load_model(NAME)


@pytest.mark.usefixtures("fake")
def test_another_name_is_one_sentence() -> None:
    with pytest.raises(Refusal, match="'ann/other' was not found locally or on the model hub"):
        loading.load_model("ann/other")


def test_a_text_is_fetched_once_and_read_as_a_file_is(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": row} for row in ("one", "", None, "two \n", " ")]
    (fake.folder / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), fake.folder / "data" / "0.parquet")
    source = texts.HubSet(NAME, {"calibration": "data/0.parquet", "evaluation": "data/none.parquet"})
    monkeypatch.setitem(texts.HUB_SETS, "wikitext2", source)
    for offline in (False, True):
        found = texts.find_text("wikitext2", offline=offline).part("calibration")
        assert list(found) == list(
            texts.find_text(str(fake.folder / "data" / "0.parquet")).part("calibration")
        )
        assert list(found) == ["one", "two \n"]
    assert fake.sent["0.parquet"] == 1
    with pytest.raises(Refusal, match="could not be fetched from the model hub; connect"):
        texts.find_text("wikitext2").part("evaluation")


def test_a_gated_repository_is_told_with_the_remedy(fake: Hub) -> None:
    fake.gated = True
    with pytest.raises(Refusal, match=r"open only to those whom its owner lets in.*'hf auth login'"):
        loading.load_model(NAME)
