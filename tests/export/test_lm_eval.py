"""Claims about lm-eval (`pip install -r requirements-eval.txt`): it reads exports of every tier through its
plain Hugging Face model, here with a task made from our own page of text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from slimllm.export import checkpoint, formats
from slimllm.models.loading import Pruned
from tests.export.test_gguf import worded
from tests.export.test_prune_again import first_of
from tests.export.test_tiers import equal, prune
from tests.support.tiny_models import PAGE

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

TASK = """
task: page
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{ends}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list:
  - metric: acc
"""
TIERS = {
    "native": "",
    "twin": "",
    "shim": ",trust_remote_code=True",
    "padded": "",
    "gguf": ",gguf_file=model.gguf,tokenizer={}",
}


def rows() -> list[dict[str, Any]]:
    """Sentences of the page without their last word, which is to be told from that of the next sentence."""
    said = [sentence.rsplit(" ", 1) for sentence in PAGE.strip().rstrip(".").split(". ")]
    return [
        {"text": text, "ends": [f" {end}", f" {other}"]}
        for (text, end), (_, other) in zip(said, [*said[1:], said[0]], strict=True)
    ]


def likelihoods(pruned: Pruned) -> list[list[float]]:
    """The log-likelihood of every end after its sentence, by the model in memory."""
    words, model, found = pruned.subject.tokenizer, pruned.subject.model, []
    for row in rows():
        start = len(words(row["text"]).input_ids)
        found.append([])
        for end in row["ends"]:
            ids = torch.tensor([words(row["text"] + end).input_ids])
            with torch.inference_mode():
                logs = model(ids).logits[0].log_softmax(-1)
            found[-1].append(float(logs[start - 1 : -1].gather(1, ids[0, start:, None]).sum()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_lm_eval_reads_exports_of_every_tier(tier: str, tmp_path: Path) -> None:
    lm_eval = pytest.importorskip("lm_eval", reason="pip install -r requirements-eval.txt")
    from lm_eval.tasks import TaskManager

    pruned = first_of(tier)
    if tier == "gguf":  # without biases, which transformers needs the config.json for
        subject = worded(num_key_value_heads=6)
        pruned = prune(subject, equal(4)(subject), bias=False)
    (tmp_path / "small").mkdir()
    checkpoint.write_checkpoint(formats.choose_format(pruned, tier), pruned, tmp_path / "small")
    (tmp_path / "page.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/page.yaml").write_text(TASK.format(file=tmp_path / "page.jsonl"))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={tmp_path / 'small'},dtype=float32,device=cpu"
        + TIERS[tier].format(tmp_path / "small"),
        tasks=["page"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        batch_size=4,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["page"], key=lambda sample: sample["doc_id"])
    seen = [[pair[0] for pair in sample["filtered_resps"]] for sample in samples]
    expected = likelihoods(pruned)
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected), rtol=1e-4, atol=1e-3)
    right = sum(own > other for own, other in expected) / len(expected)
    assert found["results"]["page"]["acc,none"] == pytest.approx(right)
