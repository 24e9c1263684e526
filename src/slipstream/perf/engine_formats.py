"""Forms in which OpenVINO can hold each format's weights: speed of one and several streams, size, and accuracy kept.

The forms of one format take turns in one process, together with W8A16 as the yardstick: compare within a format.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from slipstream.progress import Reporter, silent
from slipstream.trtllm_checkpoint.linear import Linear

YARDSTICK = "W8A16"
PROMPT_TOKENS, NEW_TOKENS = 64, 48

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One way to write a weight into the graph."""

    name: str
    is_faithful: bool  # multiplies by exactly the checkpoint's numbers
    weight_value: Callable[[Linear], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormRow:
    """What was measured of one form; the first form of a format is the one that `slipstream build` takes."""

    quant_algo: str
    form: str
    is_faithful: bool
    weight_mib: int
    tokens_per_s: dict[int, float]  # by number of streams; the best round
    first_token_ms: float  # of one stream; the best round
    kl: float  # of next-token distributions against the unquantized model in float32, as executed by default
    top1_agreement: float


def forms_of(quant_algo: str | None) -> list[Form]:
    """The forms to compare, the one that is built first."""
    from slipstream.engine.weights import weight_value

    built = Form(name="as built", is_faithful=True, weight_value=weight_value)
    others = {
        "FP8": [
            Form(name="f16 constant, scaled", is_faithful=True, weight_value=_float16_values),
            Form(name="requantized to INT8 rows", is_faithful=False, weight_value=_int8_rows),
        ],
        "W4A16_AWQ": [Form(name="i8 constant in groups", is_faithful=True, weight_value=_int8_groups)],
        "W4A8_AWQ": [Form(name="i8 constant in groups", is_faithful=True, weight_value=_int8_groups)],
        "NVFP4": [
            Form(name="i8 constant of twice the values", is_faithful=True, weight_value=_doubled_int8_groups),
            Form(name="dequantized to f16", is_faithful=False, weight_value=_dequantized_float16),
        ],
    }
    return [built, *others.get(quant_algo or "", [])]


def measure_format(
    checkpoint: Path, yardstick: Path, reference: Logits, ids: Ids, scratch: Path, rounds: int, report: Reporter
) -> list[FormRow]:
    """Build every form of `checkpoint` under `scratch` and measure it on `ids` [samples, tokens].

    `yardstick` is a W8A16 checkpoint, `reference` the logits of `reference_logits`.
    """
    from slipstream.engine.architecture import read_architecture

    algo = read_architecture(checkpoint / "config.json").quantization.algo
    forms = forms_of(algo)
    engines = [_build(checkpoint, scratch / f"{algo}-{number}", form) for number, form in enumerate(forms)]
    engines.append(_build(yardstick, scratch / f"{algo}-yardstick", forms[0]))
    forms.append(Form(name=f"({YARDSTICK} beside it)", is_faithful=True, weight_value=forms[0].weight_value))
    speeds = _take_turns(engines, ids, rounds, report)
    rows = []
    for form, engine, speed in zip(forms, engines, speeds, strict=True):
        logits = run_once(engine, ids, "performance")
        rows.append(
            FormRow(
                quant_algo=algo or "none",
                form=form.name,
                is_faithful=form.is_faithful,
                weight_mib=round((engine / "openvino_model.bin").stat().st_size / 2**20),
                tokens_per_s=speed.tokens_per_s,
                first_token_ms=speed.first_token_ms,
                kl=round(kl_divergence(reference, logits), 4),
                top1_agreement=round(float((reference.argmax(-1) == logits.argmax(-1)).mean()), 4),
            )
        )
    return rows


def reference_logits(checkpoint: Path, ids: Ids, scratch: Path) -> Logits:
    """Logits of an unquantized checkpoint in float32."""
    return run_once(_build(checkpoint, scratch / "reference", forms_of(None)[0]), ids, "accuracy")


def kl_divergence(reference: Logits, logits: Logits) -> float:
    """Mean over positions, in nats."""
    left, right = _log_softmax(reference), _log_softmax(logits)
    return float((np.exp(left) * (left - right)).sum(-1).mean())


def run_once(engine: Path, ids: Ids, execution: str) -> Logits:
    """Logits [samples, tokens, vocabulary] of a whole prompt, one sample after the other."""
    import openvino

    from slipstream.engine.properties import pipeline_properties

    properties = pipeline_properties("accuracy" if execution == "accuracy" else "performance")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(engine / "openvino_model.xml"), "CPU", properties)
    tokens = ids.shape[1]
    rows = []
    for sample in ids:
        request = compiled.create_infer_request()
        inputs = {
            "input_ids": sample[None],
            "attention_mask": np.ones((1, tokens), np.int64),
            "position_ids": np.arange(tokens)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        rows.append(request.infer(inputs)["logits"][..., :-1].copy())
    return np.concatenate(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    tokens_per_s: dict[int, float]
    first_token_ms: float


def _take_turns(engines: Sequence[Path], ids: Ids, rounds: int, report: Reporter) -> list[_Speed]:
    pipelines = [_pipeline(engine) for engine in engines]
    prompts = {streams: ids[:streams, :PROMPT_TOKENS] for streams in (1, 4)}
    for pipeline in pipelines:
        _generate(pipeline, prompts[1], 2)  # the first request compiles kernels
    first: list[list[float]] = [[] for _ in engines]
    per_s: list[dict[int, list[float]]] = [{streams: [] for streams in prompts} for _ in engines]
    for number in range(rounds):
        report(f"round {number + 1} of {rounds}", number / rounds)
        for index, pipeline in enumerate(pipelines):
            for streams, chosen in prompts.items():
                to_first_s, whole_s = _generate(pipeline, chosen, 1), _generate(pipeline, chosen, NEW_TOKENS)
                per_s[index][streams].append(streams * (NEW_TOKENS - 1) / (whole_s - to_first_s))
                if streams == 1:
                    first[index].append(to_first_s * 1e3)
    del pipelines, pipeline
    gc.collect()
    return [
        _Speed(
            tokens_per_s={streams: round(max(values), 1) for streams, values in measured.items()},
            first_token_ms=round(min(to_first), 1),
        )
        for measured, to_first in zip(per_s, first, strict=True)
    ]


def _build(checkpoint: Path, out: Path, form: Form) -> Path:
    from slipstream.engine.openvino import build_engine

    out.mkdir(parents=True)
    build_engine(checkpoint, out, max_seq_len=512, report=silent, weight_value=form.weight_value)
    return out


def _pipeline(engine: Path) -> Any:
    import openvino_genai

    from slipstream.engine.properties import pipeline_properties

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 1, False
    return openvino_genai.ContinuousBatchingPipeline(str(engine), scheduler, "CPU", pipeline_properties("performance"))


def _generate(pipeline: Any, prompts: Ids, tokens: int) -> float:
    """Seconds until every prompt has `tokens` more."""
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
    config.set_eos_token_id(0)
    started = time.perf_counter()
    handles = [pipeline.add_request(number, openvino.Tensor(row[None]), config) for number, row in enumerate(prompts)]
    while pipeline.has_non_finished_requests():
        pipeline.step()
    assert all(len(handle.read_all()[0].generated_ids) == tokens for handle in handles)
    return time.perf_counter() - started


def _log_softmax(logits: Logits) -> Logits:
    shifted: Logits = logits - logits.max(-1, keepdims=True)
    normalized: Logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normalized


def _scales(linear: Linear) -> npt.NDArray[np.float32]:
    assert linear.scales is not None
    return linear.scales


def _float16_values(linear: Linear) -> Any:
    from openvino import opset13 as ops

    from slipstream.engine.weights import scaled

    return scaled(ops.constant(linear.values.astype(np.float16)), _scales(linear))  # float16 holds all of E4M3


def _dequantized_float16(linear: Linear) -> Any:
    from slipstream.engine.weights import float_constant

    return float_constant(linear.weight().astype(np.float16))


def _int8_rows(linear: Linear) -> Any:
    from slipstream.engine.quantize_rows import quantize_rows
    from slipstream.engine.weights import weight_value

    rows = quantize_rows(linear.weight())
    return weight_value(Linear(values=rows.values, scales=rows.row_scales))


def _int8_groups(linear: Linear) -> Any:
    from openvino import opset13 as ops

    from slipstream.engine.weights import scaled_by_group

    scales = _scales(linear)
    grouped = linear.values.reshape(*scales.shape, -1)
    return scaled_by_group(ops.constant(np.ascontiguousarray(grouped)), scales)


def _doubled_int8_groups(linear: Linear) -> Any:
    """FP4's numbers are halves: twice them are whole numbers from -12 to 12."""
    doubled = Linear(values=(linear.values * 2).astype(np.int8), scales=_scales(linear) / 2)
    return _int8_groups(doubled)


def format_rows(rows: Sequence[FormRow]) -> str:
    """A Markdown table."""
    lines = [
        "| format | form | weights kept exactly | MiB | tok/s, 1 stream | 4 streams | first token ms | KL | top-1 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed: Mapping[int, float] = row.tokens_per_s
        exact = "yes" if row.is_faithful else "no"
        lines.append(
            f"| {row.quant_algo} | {row.form} | {exact} | {row.weight_mib} | {speed[1]} | {speed[4]} "
            f"| {row.first_token_ms} | {row.kl} | {row.top1_agreement} |"
        )
    return "\n".join(lines)
