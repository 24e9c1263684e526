"""A built engine against the runtime that loads it, the GPU that runs it and the spec that asks for it.

Names and rules: `EngineConfig`, `BuildConfig` and `PluginConfig` of TensorRT-LLM 1.2 (tensorrt_llm/builder.py,
tensorrt_llm/plugin/plugin.py), which are what an engine's config.json holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipstream.doctor.facts import EngineFacts, Facts
from slipstream.doctor.findings import Finding, Severity
from slipstream.formats import Method, format_for
from slipstream.spec import DeploymentSpec, KvCacheFormat

_UNQUANTIZED = {None, "NO_QUANT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examined:
    """An engine and the spec that it is compared with."""

    engine: EngineFacts
    spec: DeploymentSpec

    def finding(self, id_: str, severity: Severity, what: str, mend: str | None = None) -> Finding:
        return Finding(
            id=id_,
            severity=severity,
            what=f"{self.engine.directory}: {what}",
            mend=mend or f"slipstream build {self.spec.name}",
        )


def check_engines(facts: Facts) -> Iterator[Finding]:
    """Every engine that is there; a deployment without one is told so."""
    spec = facts.spec
    if spec is None or spec.engine.target != "tensorrt_llm":
        return
    roles = {engine.role for engine in facts.engines}
    wanted = ("target", "draft") if spec.engine.draft else ("target",)
    unread = any(finding.id == "engine-unreadable" for finding in facts.found)
    missing = [role for role in wanted if role not in roles]
    if missing and not unread:
        yield Finding(
            id="engine-missing",
            severity="info",
            what=f"there is no {' and no '.join(missing)} engine here yet: nothing of it was checked",
            mend=f"slipstream build {spec.name}",
        )
    for engine in facts.engines:
        examined = _Examined(engine=engine, spec=spec)
        yield from _version(examined, facts)
        yield from _gpu(examined, facts)
        yield from _ranks(examined)
        yield from _sizes(examined)
        yield from _format(examined, facts)
        yield from _inflight(examined)
        yield from _paged_context(examined)
        yield from _draft(examined)


def _version(it: _Examined, facts: Facts) -> Iterator[Finding]:
    installed = facts.machine.packages.get("tensorrt-llm")
    runtime = installed or (facts.pins.tensorrt_llm if facts.pins else None)
    if runtime is not None and it.engine.version != runtime:
        where = "installed here" if installed else "in the container"
        yield it.finding(
            "engine-version",
            "critical",
            f"built with TensorRT-LLM {it.engine.version}, {runtime} is {where}: engines load in their own version",
        )


def _gpu(it: _Examined, facts: Facts) -> Iterator[Finding]:
    engine = it.engine
    if engine.built_sm is None:
        yield it.finding(
            "engine-gpu-unknown",
            "low",
            "its manifest does not say on which GPU it was built; it runs only on such a one",
        )
        return
    here = {gpu.sm for gpu in facts.machine.gpus}
    targets = here or ({facts.hardware_sm} if facts.hardware_sm is not None else set())
    for sm in sorted(targets - {engine.built_sm}):
        where = "the GPU here is" if here else "hardware.gpu is"
        yield it.finding(
            "engine-gpu",
            "critical",
            f"built on sm_{engine.built_sm} ({engine.built_on or 'unnamed'}), {where} sm_{sm}: it will not load",
            f"slipstream build {it.spec.name} on a machine with GPUs of sm_{sm}",
        )


def _ranks(it: _Examined) -> Iterator[Finding]:
    engine, wanted = it.engine, it.spec.engine.world_size
    if engine.world_size != wanted:
        yield it.finding(
            "engine-ranks", "critical", f"built for {engine.world_size} ranks, engine.tp_size x pp_size is {wanted}"
        )
    if engine.ranks != engine.world_size:
        yield it.finding(
            "engine-ranks", "critical", f"{engine.ranks} rank files, its config.json names {engine.world_size}"
        )


def _sizes(it: _Examined) -> Iterator[Finding]:
    """Sizes below the spec's: requests that the spec allows would be refused, or wait."""
    spec, build = it.spec, it.engine.build
    for name in ("max_batch_size", "max_num_tokens", "max_seq_len", "max_beam_width"):
        built, wanted = build.get(name), getattr(spec.engine, name)
        if isinstance(built, int) and built < wanted:
            yield it.finding("engine-sizes", "high", f"{name} is {built}, engine.{name} says {wanted}")
    batch = build.get("max_batch_size")
    if isinstance(batch, int) and batch < spec.runtime.triton_max_batch_size:
        yield it.finding(
            "engine-sizes",
            "medium",
            f"max_batch_size is {batch}, runtime.triton_max_batch_size is {spec.runtime.triton_max_batch_size}: Triton"
            " hands over more requests than the engine schedules at once",
            f"set runtime.triton_max_batch_size to {batch}, or build with a larger engine.max_batch_size",
        )


def _format(it: _Examined, facts: Facts) -> Iterator[Finding]:
    if facts.methods is None or it.spec.engine.checkpoint_dir is not None:
        return
    draft = it.spec.engine.draft
    if it.engine.role == "draft" and draft is not None and facts.methods.draft is not None:
        yield from _format_of(it, facts.methods.draft, draft.quantization.kv_cache)
    elif it.engine.role == "target":
        yield from _format_of(it, facts.methods.target, it.spec.quantization.kv_cache)


def _format_of(it: _Examined, method: Method, kv_cache: KvCacheFormat) -> Iterator[Finding]:
    engine, wanted = it.engine, format_for(method).quant_algo
    found = None if engine.quant_algo in _UNQUANTIZED else engine.quant_algo
    if found != wanted:
        yield it.finding(
            "engine-format", "high", f"weights are {found or '16-bit'}, the recipe {method} makes {wanted or '16-bit'}"
        )
    kv_wanted = None if kv_cache == "auto" else kv_cache.upper()
    if engine.kv_cache_quant_algo != kv_wanted:
        yield it.finding(
            "engine-format",
            "high",
            f"the KV cache is {engine.kv_cache_quant_algo or '16-bit'}, quantization.kv_cache is {kv_cache}",
        )


def _inflight(it: _Examined) -> Iterator[Finding]:
    """In-flight batching needs paged KV, packed input and the attention plugin; without one the load fails."""
    build, plugins = it.engine.build, it.engine.plugins
    lacking = []
    if str(build.get("kv_cache_type", "PAGED")).lower() != "paged":
        lacking.append(f"kv_cache_type {build.get('kv_cache_type')}")
    if plugins.get("remove_input_padding") is False:
        lacking.append("remove_input_padding off")
    if "gpt_attention_plugin" in plugins and plugins["gpt_attention_plugin"] in (None, False, "disable"):
        lacking.append("gpt_attention_plugin off")
    if lacking:
        yield it.finding(
            "engine-inflight", "critical", f"{', '.join(lacking)}: in-flight batching cannot use such an engine"
        )


def _paged_context(it: _Examined) -> Iterator[Finding]:
    runtime = it.spec.runtime
    wanted = [
        f"runtime.{name}" for name in ("enable_kv_cache_reuse", "enable_chunked_context") if getattr(runtime, name)
    ]
    if it.spec.engine.draft is not None:
        wanted.append("engine.draft")
    if it.engine.plugins.get("use_paged_context_fmha") is False and wanted:
        yield it.finding(
            "engine-paged-fmha",
            "high",
            f"use_paged_context_fmha is off, {' and '.join(wanted)} cannot work: no block is reused, no prompt split",
            f"slipstream build {it.spec.name}, with a KV cache format that keeps it on, or switch these off",
        )


def _draft(it: _Examined) -> Iterator[Finding]:
    draft, built = it.spec.engine.draft, it.engine.build.get("max_draft_len", 0)
    if it.engine.role != "target" or draft is None or not isinstance(built, int):
        return
    if built < draft.max_draft_len:
        yield it.finding(
            "engine-draft",
            "critical",
            f"max_draft_len is {built}, engine.draft.max_draft_len is {draft.max_draft_len}: the target refuses such"
            " requests",
        )
