#!/usr/bin/env bash
# From a checkpoint to streamed tokens, one stage at a time. `slipstream up` does the same in one command.
set -euo pipefail
cd "$(dirname "$0")/.."
deployment=${1:-smollm2-135m-cpu}
slipstream=.venv/bin/slipstream

# A Hugging Face checkpoint with the right tokenizer, then a TensorRT-LLM checkpoint: quantized by ModelOpt, with the
# perplexity before and after. About half a minute; both are reused while nothing that they depend on changes.
$slipstream quantize "$deployment"

# The engine: for target openvino a graph built from the TensorRT-LLM checkpoint, int8 weights packed. A few seconds.
$slipstream build "$deployment"

# config.pbtxt of the five models, through Triton's protobuf.
$slipstream render "$deployment"

# The real tritonserver in the background; it returns when a token has come out of the ensemble.
$slipstream up "$deployment" --detach --set runtime.ports=auto
trap '$slipstream down "$deployment"' EXIT

$slipstream chat "$deployment" "What is the capital of France?"
