"""A draft model out of its target: some of its layers, taught to say what the whole says.

Layers are kept at even distances, the first and the last among them; embeddings, final norm and lm_head stay as they
are and are not trained. The student then learns the target's distribution over the next token (Kullback-Leibler
divergence) on stretches of text. The same settings and text give the same draft on one machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.quantize.hf_model import load_model
from slipstream.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_WARM_UP = 0.1  # share of the steps in which the learning rate rises; after it, it falls to a tenth
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin")
_HELD_OUT_STRETCHES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How a draft is made."""

    layers: int = 4
    steps: int = 75
    stretches_per_step: int = 8
    tokens_per_stretch: int = 128
    learning_rate: float = 5e-4
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftReport:
    """What was made; agreement is the share of held-out positions where draft and target choose the same token."""

    kept_layers: tuple[int, ...]
    parameters: int
    agreement_before: float  # of the layers alone
    agreement_after: float
    positions: int


def distil_draft(
    model_directory: Path, out: Path, text: str, held_out: str, settings: Distillation, report: Reporter
) -> DraftReport:
    """Write a draft of the Hugging Face model in `model_directory` into the empty directory `out`.

    Raises SlipstreamError for a model of too few layers, and for texts that are too short.
    """
    import torch

    torch.manual_seed(settings.seed)
    tokenizer = Tokenizer.load(model_directory)
    stretches = _stretches(tokenizer, text, settings.tokens_per_stretch, at_least=settings.stretches_per_step)
    checks = _stretches(tokenizer, held_out, settings.tokens_per_stretch, at_least=1)[:_HELD_OUT_STRETCHES]
    report("loading the target")
    target, student = (load_model(model_directory, "float32") for _ in range(2))
    kept = kept_layers(len(target.model.layers), settings.layers)
    _prune(student, kept)
    before = _agreement(target, student, checks)
    _train(target, student, stretches, settings, report)
    after = _agreement(target, student, checks)
    report("writing the draft")
    _save(student, model_directory, out)
    return DraftReport(
        kept_layers=kept,
        parameters=student.num_parameters(),
        agreement_before=before,
        agreement_after=after,
        positions=checks.numel(),
    )


def kept_layers(layers: int, keep: int) -> tuple[int, ...]:
    """`keep` of `layers` at even distances, the first and the last among them."""
    if not 1 < keep < layers:
        raise SlipstreamError(
            f"{keep} of {layers} layers are to be kept: at least 2, and fewer than there are", mend="choose another"
        )
    return tuple(round(index * (layers - 1) / (keep - 1)) for index in range(keep))


def _stretches(tokenizer: Tokenizer, text: str, tokens: int, *, at_least: int) -> torch.Tensor:
    """The text cut to rows of `tokens` ids [stretches, tokens]."""
    import torch

    ids = tokenizer.encode(text)
    count = len(ids) // tokens
    if count < at_least:
        raise SlipstreamError(
            f"the text has {len(ids)} tokens, {at_least * tokens} are needed", mend="give a longer text"
        )
    return torch.tensor(ids[: count * tokens]).view(count, tokens)


def _prune(model: PreTrainedModel, kept: Sequence[int]) -> None:
    import torch

    layers = [model.model.layers[index] for index in kept]
    for index, layer in enumerate(layers):
        layer.self_attn.layer_idx = index
    model.model.layers = torch.nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[index] for index in kept]
    model.requires_grad_(requires_grad=False)
    model.model.layers.requires_grad_(requires_grad=True)


def _train(
    target: PreTrainedModel, student: PreTrainedModel, stretches: torch.Tensor, settings: Distillation, report: Reporter
) -> None:
    import torch

    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    source = torch.Generator().manual_seed(settings.seed)
    student.train()
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(step / settings.steps)
        rows = torch.randperm(len(stretches), generator=source)[: settings.stretches_per_step]
        loss = _divergence(target, student, stretches[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        report(f"step {step + 1} of {settings.steps}, divergence {loss.item():.2f}", (step + 1) / settings.steps)
    student.eval()


def _schedule(progress: float) -> float:
    return max(0.1, progress / _WARM_UP if progress < _WARM_UP else (1 - progress) / (1 - _WARM_UP))


def _divergence(target: PreTrainedModel, student: PreTrainedModel, ids: torch.Tensor) -> Any:
    """Mean divergence of the student from the target in nats a token."""
    import torch

    with torch.no_grad():
        wanted = torch.log_softmax(_logits(target, ids), dim=-1).flatten(0, 1)
    said = torch.log_softmax(_logits(student, ids), dim=-1).flatten(0, 1)
    return torch.nn.functional.kl_div(said, wanted, log_target=True, reduction="batchmean")


def _agreement(target: PreTrainedModel, student: PreTrainedModel, ids: torch.Tensor) -> float:
    import torch

    same = 0
    with torch.no_grad():
        for row in ids:
            choices = (_logits(model, row[None]).argmax(dim=-1) for model in (target, student))
            same += int(torch.eq(*choices).sum())
    return same / ids.numel()


def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
    return found


def _save(student: PreTrainedModel, model_directory: Path, out: Path) -> None:
    """The student in half precision, with all that its target has beside the weights."""
    for path in model_directory.iterdir():
        if path.is_file() and not path.name.endswith(_WEIGHTS) and path.name not in {"config.json", "manifest.json"}:
            shutil.copyfile(path, out / path.name)
    student.half().save_pretrained(out)
