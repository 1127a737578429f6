"""Uploading exports to a model hub.

Its address and the token are those of the client library: HF_ENDPOINT, HF_TOKEN or `hf auth login`. The token
is never shown, stored or logged here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from slimllm.core.errors import Refusal
from slimllm.export.model_card import FACTS


def check_repository(repository: str, *, offline: bool = False) -> None:
    """Raise `Refusal` for a wrong repository name, a missing or invalid token, or an unreachable hub.

    This is checked before any work.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if repository.count("/") != 1:
        raise Refusal("A repository is named OWNER/NAME, such as ann/small-model; give that.")
    if offline:
        raise Refusal("Pushing asks the model hub, which --offline forbids; leave one of the two out.")
    if not huggingface_hub.get_token():
        raise Refusal("There is no token for the model hub; run 'hf auth login', or set HF_TOKEN.")
    with translate_hub_failures(repository):
        huggingface_hub.HfApi().whoami()
        check_content(repository)


def check_content(repository: str) -> None:
    """Raise `Refusal` if a repository holds files that are not from an earlier export of this program.

    The repository's history keeps an earlier export.
    """
    try:
        found = huggingface_hub.HfApi().model_info(repository).siblings or []
    except RepositoryNotFoundError:
        return
    names = sorted({file.rfilename for file in found} - {".gitattributes"})
    if names and FACTS not in names:
        raise Refusal(
            f"'{repository}' holds files that are not from an export ({', '.join(names[:3])}); name another "
            "repository, such as a new one."
        )


def push_export(folder: Path, repository: str, say: Callable[[str], object] = str) -> str:
    """Upload all files of an export in one commit, and return the address of the repository.

    A new repository is private. Raise `Refusal` if the folder is not an export or the upload fails.
    """
    if not (folder / FACTS).is_file():
        raise Refusal(f"'{folder}' is no export of this program; give a folder that holds {FACTS}.")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    say(f"Pushing {size / 2**20:,.1f} MiB to {repository} …")
    hub = huggingface_hub.HfApi()
    with translate_hub_failures(repository, f"; the export stays in '{folder}'"):
        check_content(repository)
        address = hub.create_repo(repository, private=True, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Pruned by slimllm")
    say(f"Pushed to {address}.")
    return str(address)


@contextlib.contextmanager
def translate_hub_failures(repository: str, rest: str = "") -> Iterator[None]:
    """Turn a failure of the hub into a `Refusal` that ends with `rest`.

    The messages of the hub and of the library are left out, because they may contain the token.
    """
    place = huggingface_hub.constants.ENDPOINT
    try:
        yield
    except OfflineModeIsEnabled:
        reason = "Pushing asks the model hub, which HF_HUB_OFFLINE forbids; unset it"
    except HfHubHTTPError as failure:
        status = failure.response.status_code
        reason = f"The model hub at {place} answered with status {status}; try again later"
        if status == 401:
            reason = f"The model hub at {place} does not know the token; run 'hf auth login', or set HF_TOKEN"
        elif status in (403, 404):
            reason = (
                f"The token may not write to '{repository}' at {place}; take one that may, or another name"
            )
    except (httpx2.HTTPError, OSError):
        reason = f"The model hub at {place} cannot be reached; check the network"
    else:
        return
    raise Refusal(f"{reason}{rest}.")
