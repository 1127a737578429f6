"""Models and texts of a hub as files in the client library's cache: which are fetched, and how that goes
on."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from tqdm import tqdm

from slimllm.models.sources import INDEX, SINGLE, named_in

BESIDE = ("*.json", "*.jinja", "*.model", "*.txt")  # what a model needs besides its weights
EVERY = 2.0  # seconds between two words on how much has come
Say = Callable[[str], object]


def fetch_model(source: str, offline: bool, *names: str, say: Say = str) -> Path:
    """The folder of the client library's cache that holds a hub model, with the files of these names; only
    what is not there yet is fetched. Raises what the client library raises, and what `say` raises."""
    return Path(
        huggingface_hub.snapshot_download(
            source, allow_patterns=[*names], local_files_only=offline, tqdm_class=progress_class(source, say)
        )
    )


def fetched_whole(source: str, offline: bool, say: Say) -> Path:
    """That folder with the safetensors files of a model and what belongs to them; pickled or doubled weights
    are left where they are."""
    index = fetch_model(source, offline, *BESIDE) / INDEX
    weights = named_in(index, source) if index.is_file() else [SINGLE]
    return fetch_model(source, offline, *BESIDE, *weights, say=say)


def fetched_data(source: str, file: str, revision: str, offline: bool) -> Path:
    """A file of a data set of the hub in that cache. Raises what the client library raises."""
    return Path(
        huggingface_hub.hf_hub_download(
            source,
            file,
            repo_type="dataset",
            revision=revision,
            local_files_only=offline,
            tqdm_class=progress_class(source, str),
        )
    )


def progress_class(source: str, say: Say) -> type[Any]:
    """What the client library shows its progress by, in words instead of a picture."""

    class Told(tqdm):
        said = time.monotonic()

        def __init__(self, *args: Any, **how: Any) -> None:
            super().__init__(*args, **{**how, "file": io.StringIO()})  # where empty lines go

        def display(self, *_: Any, **__: Any) -> bool:
            return True

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B" and self.n and self.total and time.monotonic() - Told.said >= EVERY:
                Told.said = time.monotonic()
                come, all_of_it = (count / 2**20 for count in (self.n, self.total))
                # not in `display`, where the library's lock would not be given back if this raises
                say(f"Fetching '{source}': {come:,.0f} of {all_of_it:,.0f} MiB have come.")
            return shown

    return Told
