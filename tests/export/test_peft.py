"""Claims about what people do with exports elsewhere, by plain transformers and plain peft."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
import transformers

from slimllm import api, pipeline
from slimllm.calibration import texts
from slimllm.core.types import Calibration
from slimllm.export import checkpoint, formats, model_card
from tests.export.test_tiers import by_groups, prune
from tests.support.tiny_models import tiny_subject


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3"])
def test_a_static_cache_that_is_filled_in_pieces_writes_the_same(family: str, tmp_path: Path) -> None:
    subject = tiny_subject(family)
    made = prune(subject, by_groups(subject))
    checkpoint.write_checkpoint(formats.choose_format(made, "shim"), made, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    ids = (torch.arange(21) * 7919 % 256)[None]
    how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 8}
    known = model.generate(ids, **how)
    for more in (
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "prefill_chunk_size": 8},
    ):
        assert torch.equal(model.generate(ids, **how, **more), known)


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_adapters_merge_into_the_modules_that_the_readme_names(
    family: str, tmp_path: Path, page: Path
) -> None:
    """With values narrower than their heads, into those alone."""
    peft = pytest.importorskip("peft")
    subject, text = tiny_subject(family), texts.find_text(str(page))
    job = pipeline.analyse_model(subject, text, Calibration(str(page), 8, 32), method_name="fasp")
    pruned = pipeline.finish_job(pipeline.prune_model(subject, api.plan(pipeline.finish_job(job), 0.3), text))
    form = formats.choose_format(pruned)
    size, count = checkpoint.write_checkpoint(form, pruned, tmp_path)
    done = model_card.Export(form.tier, str(tmp_path), size, count, True, 0.0, form.words)
    model_card.write_description(done, pruned, tmp_path, "", ())
    found = re.search(r"target_modules=(\[[^]]*\])", (tmp_path / "README.md").read_text())
    assert found is not None
    ids = torch.arange(9)[None]
    for modules, merges in (("all-linear", False), (ast.literal_eval(found[1]), True)):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
        adapted = peft.get_peft_model(
            model, peft.LoraConfig(target_modules=modules, init_lora_weights=False)
        ).eval()
        with torch.inference_mode():
            known = adapted(ids).logits
        if not merges:
            with pytest.raises(RuntimeError):
                adapted.merge_and_unload()
            continue
        with torch.inference_mode():
            torch.testing.assert_close(adapted.merge_and_unload()(ids).logits, known, atol=1e-4, rtol=1e-4)


def test_other_exports_say_nothing_of_adapters(tmp_path: Path) -> None:
    subject = tiny_subject()
    made = prune(subject, by_groups(subject))
    done = model_card.Export("shim", str(tmp_path), 1, 1, True, 0.0, "Stored.")
    assert "Adapters" not in model_card.write_readme(done, made, "", ())
