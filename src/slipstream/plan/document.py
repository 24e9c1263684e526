"""The design document of a plan: Markdown for an expert reader, every figure computed from the plan."""

from __future__ import annotations

from slipstream.plan.calibration import calibration
from slipstream.plan.deployment import deployment_name, settings
from slipstream.plan.document_parts import (
    capacity,
    checklist,
    components,
    data_flow,
    diagram,
    production,
    references,
    trade_offs,
)
from slipstream.plan.figures import bottleneck, draft_advice, requests_per_s, said, targets
from slipstream.plan.search import Plan, label
from slipstream.plan.understanding import Understanding


def document_text(plan: Plan, notes: Understanding) -> str:
    """The whole document."""
    parts = [
        f"# {plan.model.name} on {plan.chosen.gpus} × {plan.gpu.name}",
        _objective(plan, notes),
        "## Architecture\n\n" + _description(plan) + "\n\n" + diagram(plan),
        "## Key components\n\n" + components(plan),
        "## From request to response\n\n" + data_flow(plan),
        "## Complexity and capacity\n\n" + capacity(plan),
        "## Settings and their reasons\n\n" + _settings(plan),
        "## Alternatives\n\n" + _alternatives(plan),
        "## Pros, cons and trade-offs\n\n" + trade_offs(plan),
        "## In production\n\n" + production(plan),
        "## References\n\n" + references(plan),
        "## Reproducibility\n\n" + checklist(plan),
    ]
    return "\n\n".join(parts) + "\n"


def terse_text(plan: Plan, notes: Understanding, *, with_notes: bool) -> str:
    """Decisions in bold, configuration in bullets; with notes, what was understood and assumed comes first."""
    chosen, case = plan.chosen, plan.chosen.case
    lines = []
    if with_notes:
        lines += [f"understood  {fact.field} = {fact.value}  ({fact.words})" for fact in notes.facts]
        lines += [f"resolved    {text}" for text in notes.contradictions]
        lines += [f"assumed     {text}" for text in notes.assumptions]
        lines.append("")
    lines += [f"**{label(chosen)}** on {chosen.gpus} × {plan.gpu.name}"]
    lines += [f"**not kept: {text}**" for text in plan.unmet]
    lines += [
        f"- output tokens/s: {said(chosen.tokens_per_s)}; requests/s: {said(requests_per_s(plan))}",
        f"- TTFT {said(chosen.ttft_ms)} ms, TPOT {said(chosen.tpot_ms)} ms, mean at full batch",
        f"- **bottleneck: {bottleneck(chosen)}**",
        (
            f"- per GPU: weights {chosen.memory.weight_bytes / 2**30:.1f} GiB, KV"
            f" {chosen.memory.kv_cache_bytes / 2**30:.1f}"
            f" GiB ({case.kv.name}), of {plan.gpu.memory_gib:.1f} GiB"
        ),
        f"- scale out at {targets(plan).outstanding_per_replica} outstanding requests a replica",
    ]
    if plan.cost is not None:
        lines.append(
            f"- ${plan.cost.usd_per_month:,.0f} a month at ${plan.cost.price_usd_hour:g} per GPU-hour (assumed);"
            f" ${said(plan.cost.usd_per_million_output_tokens)} per million output tokens"
        )
    lines += [
        f"- else: {label(other)} on {other.gpus} GPUs, {said(other.tokens_per_s)} tokens/s, {bottleneck(other)}"
        for other in plan.alternatives
    ]
    lines += [
        f"- in another format: {label(other)} on {other.gpus} GPUs, {said(other.tokens_per_s)} tokens/s,"
        f" {bottleneck(other)}"
        for other in plan.other_formats
    ]
    return "\n".join(lines) + "\n"


def _objective(plan: Plan, notes: Understanding) -> str:
    workload = plan.input.workload
    lines = [
        "## Objective",
        "",
        f"Serve {plan.model.name} ({plan.model.shape.parameters / 1e9:.1f} billion parameters) for {workload.kind} with"
        f" {workload.input_tokens:g} prompt and {workload.output_tokens:g} reply tokens in the mean; best"
        f" {workload.objective}" + _promises(plan) + ".",
        "",
    ]
    lines += [f"> **Not kept**: {text}. What follows is the nearest configuration." for text in plan.unmet]
    if plan.unmet:
        lines.append("")
    if notes.facts:
        lines += ["| understood | as | from the words |", "|---|---|---|"]
        lines += [f"| {fact.field} | {fact.value} | {fact.words} |" for fact in notes.facts]
        lines.append("")
    lines += [f"- **Contradiction resolved**: {text}" for text in notes.contradictions]
    lines += [f"- Assumed: {text}" for text in notes.assumptions]
    lines.append("- Intervals hold nine of ten measurements of configurations like the published ones.")
    return "\n".join(lines)


def _promises(plan: Plan) -> str:
    workload = plan.input.workload
    promises = []
    if workload.ttft_ms is not None:
        promises.append(f"TTFT of at most {workload.ttft_ms:g} ms")
    if workload.tpot_ms is not None:
        promises.append(f"TPOT of at most {workload.tpot_ms:g} ms")
    return f", with {' and '.join(promises)} in the mean" if promises else ", without a latency target"


def _description(plan: Plan) -> str:
    chosen, split = plan.chosen, plan.chosen.case.split
    shape = f"tensor parallelism over {split.tp} GPU" + ("s" if split.tp > 1 else "")
    if split.pp > 1:
        shape += f" and a pipeline of {split.pp} stages"
    return (
        f"**{label(chosen)}.** {chosen.replicas} replica(s), each {shape}, behind one gateway. Inside a"
        " replica TensorRT-LLM"
        f" batches in flight over a paged KV cache of {chosen.memory.kv_cache_bytes / 2**30:.1f} GiB on each GPU; an"
        f" iteration is bound by {bottleneck(chosen)}. " + _network(plan)
    )


def _network(plan: Plan) -> str:
    hardware, split = plan.input.hardware, plan.chosen.case.split
    if hardware.nodes == 1:
        return "All GPUs are in one node."
    if split.gpus > hardware.gpus_per_node:
        return (
            f"A replica spans nodes through its pipeline only: {hardware.network_gbit_s:g} Gbit/s carry one"
            " vector a token"
            " between stages; all-reduce never leaves a node."
        )
    return (
        f"No replica spans nodes: two all-reduces a layer would go over {hardware.network_gbit_s:g} Gbit/s"
        f" ({hardware.network_gbit_s / 8:g} GB/s) instead of {plan.gpu.link_gb_s:g} GB/s. Nodes add replicas."
    )


def _settings(plan: Plan) -> str:
    lines = [f"`deployments/{deployment_name(plan)}.yaml`:", "", "| setting | value | reason |", "|---|---|---|"]
    lines += [f"| `{s.field}` | `{s.value}` | {s.reason} |" for s in settings(plan)]
    return "\n".join(lines)


def _alternatives(plan: Plan) -> str:
    rows = [plan.chosen, *plan.alternatives, *plan.other_formats]
    lines = [
        (
            f"{plan.searched} configurations were evaluated; {len(plan.pareto)} are on the Pareto front of"
            " tokens/s a GPU against"
            " tokens/s a user (`pareto.csv`)."
        ),
        "",
        "| configuration | GPUs | output tokens/s | TTFT ms | TPOT ms | bottleneck |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"**{label(row)}** (chosen)" if row is plan.chosen else label(row)
        lines.append(
            f"| {name} | {row.gpus} | {said(row.tokens_per_s)} | {said(row.ttft_ms)} | {said(row.tpot_ms)} |"
            f" {bottleneck(row)} |"
        )
    return "\n".join([*lines, *_notes(plan)])


def _notes(plan: Plan) -> list[str]:
    """What to keep in mind when reading the table."""
    lines = []
    if plan.chosen.case.split.pp > 1:
        lines += ["", "No published figure has a pipeline: those predictions rest on the analytic model alone."]
    if plan.chosen.case.weights.name in {"int4_awq", "int8_wo", "int8_sq"}:
        lines += [
            "",
            (
                f"No published figure has {plan.chosen.case.weights.name} weights: the speed of expanding them is"
                " that of MXFP4"
                " rows, and the interval is widened for it."
            ),
        ]
    if plan.other_formats:
        lines += [
            "",
            f"Rows in another format than {plan.chosen.case.weights.name} were not asked for; they show what it costs.",
        ]
    advice = draft_advice(plan, calibration())
    if advice is not None:
        until = f"up to batch {advice.break_even_batch}" if advice.break_even_batch else "at no batch"
        best = advice.rows[0]
        lines += [
            "",
            (
                f"A draft model ({advice.draft}, {100 * advice.acceptance:.0f} % of its tokens accepted: an"
                " assumption) pays"
                f" {until}; alone in the batch it is {best.speedup:.2f} times as fast at {best.depth} drafted"
                " tokens. TensorRT-LLM's"
                " draft-target profile does not stream, so it is left off here."
            ),
        ]
    return lines
