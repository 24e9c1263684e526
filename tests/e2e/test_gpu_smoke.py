"""The real thing, where it is: TensorRT-LLM, Triton and a GPU, as in the images of docker/.

Skips everywhere else. It has not run yet.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from slipstream.project import pinned_versions
from tests.conftest import ROOT, run_slipstream

QUESTION = "What is the capital of France?"
SPEC = """\
name: smoke
model:
  source: bundled:smollm2-135m-instruct
quantization:
  recipe: {recipe}
  kv_cache: {kv_cache}
engine:
  target: tensorrt_llm
  max_batch_size: 8
  max_num_tokens: 2048
  max_seq_len: 2048
  max_input_len: 2047
runtime:
  ports: auto
  triton_max_batch_size: 8
  startup_timeout_s: 600
  kv_cache_free_gpu_mem_fraction: 0.2
"""


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("trtllm-build") is None, reason="needs TensorRT-LLM: trtllm-build was not found")
@pytest.mark.parametrize(("recipe", "kv_cache"), [("none", "auto"), ("fp8", "fp8")])
def test_a_model_is_compiled_served_and_answers(tmp_path: Path, recipe: str, kv_cache: str) -> None:
    deployment = tmp_path / "smoke.yaml"
    deployment.write_text(SPEC.format(recipe=recipe, kv_cache=kv_cache))
    out = ("--out", str(tmp_path / "artifacts"))
    done = run_slipstream("up", str(deployment), *out, "--ask", QUESTION, timeout_s=3600)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    engine = json.loads((tmp_path / "artifacts" / "engine" / "config.json").read_text())
    assert engine["version"] == pinned_versions(ROOT)["TENSORRT_LLM_VERSION"]
    assert engine["build_config"]["plugin_config"]["use_paged_context_fmha"] is True
    verdict = json.loads(run_slipstream("doctor", str(deployment), *out, "--json").stdout)["verdict"]
    assert verdict != "blocked"
