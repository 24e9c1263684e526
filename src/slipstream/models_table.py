"""Which model families go where: one row a family, read by the docs and held by tests to what the stages accept.

Sources of the TensorRT-LLM columns: for engines `MODEL_MAP` of tensorrt_llm/models/__init__.py (NVIDIA/TensorRT-LLM
@02267d3d, before 1.1) and what was merged since (Qwen3 MoE: pull request 6470); for the PyTorch backend of the LLM API
the classes of tensorrt_llm/_torch/models/__init__.py (@015fb89c) and docs/source/models/supported-models.md; Phi-3 and
Phi-4 there: pull requests 5644 and 7371.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from slipstream.formats import FORMATS, Method

Target = Literal["openvino", "tensorrt_llm", "llmapi"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that share an architecture."""

    name: str
    examples: str
    architectures: tuple[str, ...]  # Hugging Face's classes, as config.json names them
    engine_class: str | None  # of TensorRT-LLM 1.2's checkpoint loader; None: it has none
    pytorch_class: str | None  # of the LLM API's PyTorch backend; None: it has none
    quantized_here: bool  # the quantize stage exports it
    dense: bool = True
    refused: Mapping[Method, str] = field(default_factory=dict)  # recipes that the family cannot have → why
    notes: str = ""

    def recipes(self, target: Target) -> tuple[Method, ...]:
        """The recipes with which this project takes the family to `target`; empty where it does not."""
        if not self.quantized_here or (target == "openvino" and not self.dense):
            return ()
        known = self.engine_class if target == "tensorrt_llm" else self.pytorch_class if target == "llmapi" else "graph"
        if known is None:
            return ()
        return tuple(
            entry.name
            for entry in FORMATS.values()
            if entry.name not in self.refused and (target != "llmapi" or entry.llm_api)
        )


_STACKED = "ModelOpt's export cannot stack the experts' scales per output row"
_LOADER_ONLY = (
    "not exported from here: convert with TensorRT-LLM's own convert_checkpoint.py and give engine.checkpoint_dir"
)

FAMILIES: tuple[Family, ...] = (
    Family(
        name="Llama 2, 3, 3.1, 3.2, 3.3",
        examples="meta-llama/Llama-3.1-8B-Instruct, meta-llama/Llama-3.3-70B-Instruct, SmolLM2",
        architectures=("LlamaForCausalLM",),
        engine_class="LLaMAForCausalLM",
        pytorch_class="LlamaForCausalLM",
        quantized_here=True,
        notes="text models; llama3 is the only rotary scaling that is checked",
    ),
    Family(
        name="Mistral",
        examples="mistralai/Mistral-7B-Instruct-v0.3, mistralai/Mistral-Nemo-Instruct-2407",
        architectures=("MistralForCausalLM",),
        engine_class="LLaMAForCausalLM",
        pytorch_class="MistralForCausalLM",
        quantized_here=True,
        notes="a sliding window shorter than the context is refused: the checkpoint has no place for it",
    ),
    Family(
        name="Mixtral",
        examples="mistralai/Mixtral-8x7B-Instruct-v0.1, mistralai/Mixtral-8x22B-Instruct-v0.1",
        architectures=("MixtralForCausalLM",),
        engine_class="LLaMAForCausalLM",
        pytorch_class="MixtralForCausalLM",
        quantized_here=True,
        dense=False,
        refused={"int8_sq": _STACKED},
        notes="engine.moe_ep_size spreads the experts; the CPU engine has no experts",
    ),
    Family(
        name="Qwen2, Qwen2.5",
        examples="Qwen/Qwen2.5-7B-Instruct",
        architectures=("Qwen2ForCausalLM",),
        engine_class="QWenForCausalLM",
        pytorch_class="Qwen2ForCausalLM",
        quantized_here=True,
        notes="biases of q, k and v are kept",
    ),
    Family(
        name="Qwen3",
        examples="Qwen/Qwen3-8B, Qwen/Qwen3-32B",
        architectures=("Qwen3ForCausalLM",),
        engine_class="QWenForCausalLM",
        pytorch_class="Qwen3ForCausalLM",
        quantized_here=True,
        notes="norms of each head are kept",
    ),
    Family(
        name="Qwen3 MoE",
        examples="Qwen/Qwen3-30B-A3B",
        architectures=("Qwen3MoeForCausalLM",),
        engine_class="QWenForCausalLM",
        pytorch_class="Qwen3MoeForCausalLM",
        quantized_here=False,
        dense=False,
        notes=_LOADER_ONLY,
    ),
    Family(
        name="Phi-2",
        examples="microsoft/phi-2",
        architectures=("PhiForCausalLM",),
        engine_class="PhiForCausalLM",
        pytorch_class=None,
        quantized_here=False,
        notes=_LOADER_ONLY,
    ),
    Family(
        name="Phi-3, Phi-4",
        examples="microsoft/Phi-3-mini-128k-instruct, microsoft/phi-4",
        architectures=("Phi3ForCausalLM",),
        engine_class="Phi3ForCausalLM",
        pytorch_class="Phi3ForCausalLM",
        quantized_here=False,
        notes=_LOADER_ONLY,
    ),
    Family(
        name="Phi-3.5 MoE",
        examples="microsoft/Phi-3.5-MoE-instruct",
        architectures=("PhiMoEForCausalLM",),
        engine_class="Phi3ForCausalLM",
        pytorch_class=None,
        quantized_here=False,
        dense=False,
        notes=_LOADER_ONLY,
    ),
    Family(
        name="Gemma, Gemma 2",
        examples="google/gemma-7b-it, google/gemma-2-9b-it",
        architectures=("GemmaForCausalLM", "Gemma2ForCausalLM"),
        engine_class="GemmaForCausalLM",
        pytorch_class=None,
        quantized_here=False,
        notes=_LOADER_ONLY,
    ),
    Family(
        name="Gemma 3",
        examples="google/gemma-3-1b-it",
        architectures=("Gemma3ForCausalLM",),
        engine_class="GemmaForCausalLM",
        pytorch_class="Gemma3ForCausalLM",
        quantized_here=False,
        notes=_LOADER_ONLY,
    ),
)


def family_of(architecture: str) -> Family | None:
    """The family whose config.json names `architecture`."""
    return next((family for family in FAMILIES if architecture in family.architectures), None)


def models_markdown() -> str:
    """The table of docs/models.md."""
    lines = [
        "| family | `architectures` in config.json | `openvino` | `tensorrt_llm` | `llmapi` | TensorRT-LLM's class |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        names = ", ".join(f"`{name}`" for name in family.architectures)
        cells = [_cell(family.recipes(target)) for target in TARGETS]
        lines.append(f"| {family.name} | {names} | {' | '.join(cells)} | {_classes(family)} |")
    lines += ["", *(_note(family) for family in FAMILIES)]
    return "\n".join(lines) + "\n"


def _cell(recipes: tuple[Method, ...]) -> str:
    if not recipes:
        return "–"
    missing = [name for name in FORMATS if name not in recipes]
    return f"all but {', '.join(missing)}" if missing else "all recipes"


def _classes(family: Family) -> str:
    engine = f"engine: `{family.engine_class}`" if family.engine_class else "no engine"
    return f"{engine}; " + (f"LLM API: `{family.pytorch_class}`" if family.pytorch_class else "not in the LLM API")


def _note(family: Family) -> str:
    refused = "".join(f"; {method} is refused: {why}" for method, why in family.refused.items())
    return f"- **{family.name}** ({family.examples}): {family.notes}{refused}."
