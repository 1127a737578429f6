"""Downloads of models and texts from the hub into the client library's cache, with progress messages."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
from tqdm import tqdm

from slimllm.core.errors import Refusal
from slimllm.core.failures import is_failure
from slimllm.files.starter_kit import HUB_MODEL, hub_place
from slimllm.models.sources import INDEX, SINGLE, named_in

# The files that a model needs besides its weights.
BESIDE = ("*.json", "*.jinja", "*.model", "*.txt")
# Seconds between two progress messages.
EVERY = 2.0
Say = Callable[[str], object]


def fetch_model(source: str, offline: bool, *names: str, say: Say = str) -> Path:
    """Download the named files of a hub model that are not cached, and return its folder in the cache.

    Raise what the client library and `say` raise, or a `Refusal` if the starter cannot be fetched.
    """
    repository, revision = hub_place(source)
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=[*names],
                local_files_only=offline,
                tqdm_class=progress_class(source, say),
            )
        )
    except Refusal:
        raise
    except BaseException as failure:
        if (repository, revision) != HUB_MODEL or not is_failure(failure):
            raise
        raise Refusal(
            f"The starter model ({repository}) could not be fetched from the model hub; try again in a "
            "minute, or check the server's network."
        ) from failure


def fetched_whole(source: str, offline: bool, say: Say) -> Path:
    """Download a model's safetensors files and everything else that it needs; return its folder in the cache.

    Pickled and duplicate weights are not downloaded.
    """
    index = fetch_model(source, offline, *BESIDE) / INDEX
    weights = named_in(index, source) if index.is_file() else [SINGLE]
    return fetch_model(source, offline, *BESIDE, *weights, say=say)


def fetched_data(source: str, file: str, revision: str, offline: bool) -> Path:
    """Return a file of a hub data set in the cache, downloading it if needed.

    Raise what the client library raises.
    """
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
    """Return a tqdm class that reports the client library's progress to `say` as sentences."""

    class Told(tqdm):
        """A progress bar that shows nothing and reports to `say`."""

        said = time.monotonic()

        def __init__(self, *args: Any, **how: Any) -> None:
            # tqdm still writes empty lines, which go into this buffer.
            super().__init__(*args, **{**how, "file": io.StringIO()})

        def display(self, *_: Any, **__: Any) -> bool:
            """Show nothing."""
            return True

        def update(self, n: float | None = 1) -> bool | None:
            """Count what has come, and report it every `EVERY` seconds."""
            shown: bool | None = super().update(n)
            if self.unit == "B" and self.n and self.total and time.monotonic() - Told.said >= EVERY:
                Told.said = time.monotonic()
                come, all_of_it = (count / 2**20 for count in (self.n, self.total))
                # In `display` the library would not release its lock if this raises.
                say(f"Fetching '{source}': {come:,.0f} of {all_of_it:,.0f} MiB have come.")
            return shown

    return Told
