"""Analyse and prune a made-up checkpoint that is larger than the permitted memory.

    python -m benchmarks.memory [--layers 28] [--limit-gb 6] [--samples 8] [--length 256] [--json]

Writes random weights in the shape of a model of three billion parameters, layer by layer, and runs the
command line on them in a control group with a memory limit. Prints the peak beside what layer-wise work has
to hold: the embeddings, one layer, its moments, and the stream of hidden states.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from tests.support.tiny_models import PAGE, tiny_tokenizer

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Made:
    """The shape of the made-up model; the default is that of Llama-3.2-3B."""

    layers: int = 28
    hidden: int = 3072
    heads: int = 24
    groups: int = 8
    head_size: int = 128
    channels: int = 8192
    vocabulary: int = 128_256

    def config(self) -> transformers.LlamaConfig:
        """Return the configuration of the model."""
        return transformers.LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.channels,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            head_dim=self.head_size,
            tie_word_embeddings=True,
            max_position_embeddings=131_072,
            dtype="bfloat16",
        )

    @property
    def embeddings(self) -> int:
        """The number of parameters of the embeddings."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """The number of parameters of one layer."""
        wide, narrow = self.heads * self.head_size, self.groups * self.head_size
        return self.hidden * (2 * wide + 2 * narrow + 3 * self.channels + 2)

    @property
    def parameters(self) -> int:
        """The number of all parameters."""
        return self.embeddings + self.layers * self.layer + self.hidden

    def held(self, tokens: int) -> int:
        """Return the bytes that layer-wise work has to hold for this many tokens.

        These are the embeddings and one layer in bfloat16, the second moments of both sites in float32, and
        the stream's hidden states, dense and pruned, in bfloat16.
        """
        wide = self.heads * self.head_size
        moments = 4 * (wide**2 + self.channels**2)
        return 2 * (self.embeddings + self.layer) + moments + 2 * 2 * tokens * self.hidden


def write(made: Made, folder: Path) -> None:
    """Write the checkpoint with one shard per layer, so that only one layer is in memory at a time."""
    config = made.config()
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    places: dict[str, str] = {}
    noise = torch.Generator().manual_seed(0)
    shards: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, weight in empty.named_parameters():
        layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(f"model-{layer}.safetensors", []).append((name, weight.shape))
    for shard, weights in shards.items():
        save_file(
            {
                name: torch.ones(shape, dtype=torch.bfloat16)
                if len(shape) == 1
                else torch.randn(shape, generator=noise, dtype=torch.bfloat16) / shape[-1] ** 0.5
                for name, shape in weights
            },
            folder / shard,
            metadata={"format": "pt"},
        )
        places |= {name: shard for name, _ in weights}
    index = {"metadata": {"total_size": 2 * made.parameters}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@dataclass(frozen=True)
class Group:
    """A control group with a memory limit; the names of its files depend on the version, 1 or 2."""

    path: Path
    most: str
    peak: str

    def join(self) -> None:
        """Move the present process into the group."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self) -> int:
        """Return the most bytes that the group has used."""
        return int((self.path / self.peak).read_text())


@contextlib.contextmanager
def limited(limit: int) -> Iterator[Group]:
    """Make a control group that may use at most `limit` bytes, and remove it at the end.

    Raise `SystemExit` where none can be made.
    """
    name = f"slimllm-benchmark-{os.getpid()}"
    for group in (
        Group(Path("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
        Group(Path("/sys/fs/cgroup", name), "memory.max", "memory.peak"),
    ):
        if not (group.path.parent / "cgroup.procs").exists():
            continue
        try:
            group.path.mkdir()
            (group.path / group.most).write_text(str(limit))
        except OSError:
            continue
        try:
            yield group
        finally:
            group.path.rmdir()
        return
    raise SystemExit("No control group with a memory limit can be made here; run as root, or by systemd-run.")


def run(command: list[str], group: Group) -> dict[str, Any]:
    """Return the seconds, exit status and most resident gigabytes of one of our commands in the group.

    The group's own peak includes the files that the system caches while there is room, so it always reaches
    the limit; `resident_gb` is what the process itself holds.
    """
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "slimllm", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=group.join,
        text=True,
    )
    assert child.stdout is not None
    out = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return {
        "command": command[0],
        "status": child.returncode,
        "seconds": round(time.monotonic() - began, 1),
        "resident_gb": round(used.ru_maxrss * 1024 / 1e9, 2),
        "group_gb": round(group.peak_bytes() / 1e9, 2),
        "said": json.loads(out) if child.returncode == 0 else {},
    }


def main(arguments: list[str] | None = None, made: Made = Made()) -> int:
    """Run the benchmark, print its report, and return the highest exit status of its commands."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--layers", type=int, default=made.layers)
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--ratio", type=float, default=0.2)
    given = parser.parse_args(arguments)
    made = dataclasses.replace(made, layers=given.layers)
    with tempfile.TemporaryDirectory() as place, limited(int(given.limit_gb * 1e9)) as group:
        model, text, out = (Path(place, name) for name in ("model", "page.txt", "pruned"))
        text.write_text(PAGE * (3 * given.samples * given.length // len(PAGE) + 3))
        print(f"writing {2 * made.parameters / 1e9:.1f} GB of weights …", file=sys.stderr, flush=True)
        model.mkdir()
        write(made, model)
        what = ["--model", str(model), "--text", str(text), "--ratio", str(given.ratio), "--out", str(out)]
        read = ["--samples", str(given.samples), "--length", str(given.length)]
        steps = [run(["prune", *what, *read, "--json"], group)]
        measured = ["--model", str(out), "--text", str(text), "--limit-tokens", "1024"]
        steps.append(run(["evaluate", *measured, "--json"], group))
    report = {
        **asdict(made),
        "parameters": made.parameters,
        "weights_gb": round(2 * made.parameters / 1e9, 2),
        "limit_gb": given.limit_gb,
        "held_gb": round(made.held(given.samples * given.length) / 1e9, 2),
        "steps": steps,
    }
    print(json.dumps(report) if given.json else json.dumps(report, indent=2))
    return max(step["status"] for step in steps)


if __name__ == "__main__":
    sys.exit(main())
