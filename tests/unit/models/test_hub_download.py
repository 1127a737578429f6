"""Claims about models from a hub, made against a small server that answers as the hub does: only what is
needed is fetched, and only once; what is larger than the memory is read layer by layer; of what is refused no
weight is fetched."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import torch

from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.files import paths, starter_kit
from slimllm.models import hub_download, loading, offload_loading
from slimllm.models.layer_offload import is_offloaded
from tests.support.servers.fake_hub import Hub, serve_hub
from tests.support.tiny_models import tiny_model, tiny_tokenizer
from ui.jobs.worker import Job
from ui.session.registry import Registry
from ui.session.settings import SessionSettings
from ui.tasks import work

NAME = "ann/tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a tiny model in several files, as its repository has it."""
    made = tmp_path / "repository"
    tiny_model("llama").save_pretrained(made, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(made)
    (made / "pytorch_model.bin").write_bytes(b"pickled")
    (made / "consolidated.safetensors").write_bytes(b"the same once more")
    return made


@pytest.fixture
def fake(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, which the client library is pointed at, with one repository."""
    known = Hub({NAME: folder})
    with serve_hub(known) as address:
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield known


def test_a_hub_model_is_fetched_once_and_is_the_same_offline(fake: Hub) -> None:
    said: list[str] = []
    subject = loading.load_model(NAME, dtype="float32", device="cpu", say=said.append)
    local = loading.load_model(str(fake.repositories[NAME]), dtype="float32", device="cpu")
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        assert torch.equal(subject.model(ids).logits, local.model(ids).logits)
    assert subject.source == NAME
    assert any(NAME in words for words in said)
    shards = {name for name in fake.names(NAME) if name.startswith("model-")}
    assert len(shards) > 1
    assert {name: fake.sent[name] for name in shards} == dict.fromkeys(shards, 1)
    assert not fake.sent["pytorch_model.bin"]
    assert not fake.sent["consolidated.safetensors"]
    fake.sent.clear()
    loading.load_model(NAME, dtype="float32", device="cpu")
    loading.load_model(NAME, dtype="float32", device="cpu", offline=True)
    assert not any(name in fake.sent for name in shards)


@pytest.mark.usefixtures("fake")
def test_a_hub_model_is_loaded_where_only_some_folders_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's cache lies outside them, and its files are links."""
    monkeypatch.setenv(paths.ROOTS, "")
    assert loading.load_model(NAME, dtype="float32", device="cpu").source == NAME


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
    config = json.loads((fake.repositories[NAME] / "config.json").read_text())
    (fake.repositories[NAME] / "config.json").write_text(json.dumps({**config, "model_type": "mixtral"}))
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
    for file in fake.repositories[NAME].glob(gone):
        file.unlink()
    with pytest.raises(Refusal, match=words):
        loading.load_model(NAME)


@pytest.mark.usefixtures("fake")
def test_another_name_is_one_sentence() -> None:
    with pytest.raises(Refusal, match="'ann/other' was not found locally or on the model hub"):
        loading.load_model("ann/other")


def test_a_text_is_fetched_once_and_read_as_a_file_is(fake: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": row} for row in ("one", "", None, "two \n", " ")]
    (fake.repositories[NAME] / "data").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), fake.repositories[NAME] / "data" / "0.parquet"
    )
    source = texts.HubSet(NAME, {"calibration": "data/0.parquet", "evaluation": "data/none.parquet"})
    monkeypatch.setitem(texts.HUB_SETS, "wikitext2", source)
    for offline in (False, True):
        found = texts.find_text("wikitext2", offline=offline).part("calibration")
        assert list(found) == list(
            texts.find_text(str(fake.repositories[NAME] / "data" / "0.parquet")).part("calibration")
        )
        assert list(found) == ["one", "two \n"]
    assert fake.sent["0.parquet"] == 1
    with pytest.raises(Refusal, match="could not be fetched from the model hub; connect"):
        texts.find_text("wikitext2").part("evaluation")


def test_a_gated_repository_is_told_with_the_remedy(fake: Hub) -> None:
    fake.gated = True
    with pytest.raises(Refusal, match=r"open only to those whom its owner lets in.*'hf auth login'"):
        loading.load_model(NAME)


# The starter from the hub -----------------------------------------------------------------------------------


@pytest.fixture
def from_hub(fake: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, with the starter's model and text, in a program that takes the starter from there."""
    text = tmp_path / "text" / texts.HUB_SETS[starter_kit.HUB_TEXT].files["evaluation"]
    text.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), text)
    set_name = texts.HUB_SETS[starter_kit.HUB_TEXT].path
    fake.repositories.update({starter_kit.HUB_MODEL[0]: folder, set_name: tmp_path / "text"})
    monkeypatch.setenv(starter_kit.VARIABLE, starter_kit.HUB)
    return fake


def test_the_starter_comes_from_the_hub_where_the_server_says_so(from_hub: Hub) -> None:
    subject = loading.load_model("smollm2", dtype="float32", device="cpu")
    assert subject.source == "smollm2"
    assert from_hub.asked == {starter_kit.HUB_MODEL[1]}
    assert list(texts.find_text("encyclopedia").part("evaluation")) == ["one", "two"]
    with pytest.raises(Refusal, match="no topics; a local install has them"):
        texts.find_text("encyclopedia/Mathematics")


def test_nothing_of_the_starter_is_fetched_unless_that_is_said(fake: Hub) -> None:
    assert starter_kit.hub_place("smollm2") == ("smollm2", None)
    texts.find_text("encyclopedia").part("evaluation")
    assert not fake.asked


def test_a_hub_without_the_starter_is_one_sentence(from_hub: Hub) -> None:
    from_hub.repositories.clear()
    with pytest.raises(Refusal, match=r"The starter model \(HuggingFaceTB/.*\) could not be fetched from"):
        loading.load_model("smollm2")
    with pytest.raises(Refusal, match="Text 'wikitext2' could not be fetched from the model hub; try again"):
        texts.find_text("encyclopedia").part("evaluation")


@pytest.mark.usefixtures("from_hub")
def test_the_starter_is_one_sentence_offline() -> None:
    with pytest.raises(Refusal, match="could not be fetched from the model hub"):
        loading.load_model("smollm2", offline=True)
