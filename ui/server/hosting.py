"""Notice that the program runs on a host that shows it to everybody, such as Hugging Face Spaces. No Gradio.

The host says so in environment variables. They are read once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slimllm.core.errors import Refusal
from slimllm.files.starter_kit import HUB_TEXT, STARTER
from ui.jobs.bounds import AT_HOME, JobBounds
from ui.server.address import public_url
from ui.server.request_limits import SizeLimit
from ui.session.limits import Limits

# Lists other models than MODELS, separated by commas.
VARIABLE = "SLIMLLM_MODELS"
# Small models with a free licence (Apache-2.0), beside the starter.
MODELS = (
    "HuggingFaceTB/SmolLM2-135M",
    "HuggingFaceTB/SmolLM2-360M",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-0.6B",
)
HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
# The sites that show the page in a frame.
FRAMES = ("https://huggingface.co",)
# What one visitor may ask for at once.
LIMITS = Limits(
    models=(STARTER, *MODELS),
    texts=("encyclopedia", HUB_TEXT),
    read_tokens=32_768,
    window=1_024,
    answer_tokens=128,
    prompt_letters=4_000,
    training_steps=200,
    uploaded_bytes=2_000_000,
    jobs=JobBounds(each=1, waiting=8, seconds=1_200.0),
    idle_seconds=1_200.0,
    free_mib=2_048.0,
)


@dataclass(frozen=True)
class Hosting:
    """How a host serves the page.

    `space` is the name of the page there, and `public` its address, or empty where the host does not say it.
    `server` and `port` are where the host expects the program to listen.
    """

    space: str
    public: str
    server: str
    port: int
    limits: Limits


def find_hosting(environment: Mapping[str, str]) -> Hosting | None:
    """Return how the host of this environment serves the page, or None on a machine of one's own.

    Raise `Refusal` where a variable is not what it should be.
    """
    space = environment.get("SPACE_ID", "")
    if not space:
        return None
    host = environment.get("SPACE_HOST", "")
    models = listed_models(environment.get(VARIABLE, ""))
    return Hosting(
        space,
        public_url(f"https://{host}") if host else "",
        environment.get("GRADIO_SERVER_NAME") or "0.0.0.0",
        port_of(environment.get("GRADIO_SERVER_PORT") or "7860"),
        Limits(**{**vars(LIMITS), "models": (STARTER, *models)}),
    )


def listed_models(words: str) -> tuple[str, ...]:
    """Return the models that a variable lists, or ours where it is empty.

    Raise `Refusal` for a name that is no hub id.
    """
    names = tuple(filter(None, (name.strip() for name in words.split(","))))
    for name in names:
        if HUB_ID.fullmatch(name) is None:
            raise Refusal(f"{VARIABLE} lists '{name}', which is no hub id; write OWNER/NAME, OWNER/NAME.")
    return names or MODELS


def port_of(words: str) -> int:
    """Return the port that the host names; raise `Refusal` where it is no number."""
    if not (words.isascii() and words.isdecimal()):
        raise Refusal(f"GRADIO_SERVER_PORT is '{words}', which is no port; set it to a number.")
    return int(words)


def upload_limit(limits: Limits) -> SizeLimit:
    """Return the limit of an upload on a shared server."""
    most = int(limits.uploaded_bytes)
    return SizeLimit(most, f"This server takes uploads of up to {most:,} bytes; send less ({AT_HOME}).")
