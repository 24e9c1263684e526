"""Sections of the design document that stand by themselves."""

from __future__ import annotations

from slipstream import __version__
from slipstream.plan.candidates import LOAD
from slipstream.plan.catalogue import catalogue_data
from slipstream.plan.deployment import deployment_yaml, sequence_tokens
from slipstream.plan.figures import (
    bottleneck,
    data_digest,
    kv_requests,
    number,
    requests_per_s,
    said,
    targets,
    without_one_replica,
)
from slipstream.plan.search import Plan


def diagram(plan: Plan) -> str:
    """A Mermaid flow chart of the chosen topology."""
    chosen, split = plan.chosen, plan.chosen.case.split
    lines = [
        "```mermaid",
        "flowchart LR",
        '  client["clients"] --> lb["load balancer"] --> gateway["gateway: router, admission, limits"]',
    ]
    shown = min(chosen.replicas, 2)
    for replica in range(1, shown + 1):
        lines.append(f'  subgraph r{replica}["replica {replica} of {chosen.replicas}"]')
        lines.append(f'    t{replica}["Triton: tokenize, batch in flight, detokenize"]')
        for stage in range(1, split.pp + 1):
            ranks = f"{split.tp} × {plan.gpu.name}"
            lines.append(f'    s{replica}x{stage}["stage {stage}: {ranks}, paged KV"]')
        chain = " --> ".join([f"t{replica}", *(f"s{replica}x{stage}" for stage in range(1, split.pp + 1))])
        lines += [f"    {chain}", "  end", f"  gateway --> t{replica}"]
    if chosen.replicas > shown:
        lines += [f'  more["{chosen.replicas - shown} more"]', "  gateway --> more"]
    lines += ['  metrics["Prometheus, KEDA"] -.-> gateway', "```"]
    return "\n".join(lines)


def components(plan: Plan) -> str:
    """What the parts do in this case."""
    chosen, goal = plan.chosen, targets(plan)
    return "\n".join(
        [
            (
                "- **Request router**: the gateway sends a request to the replica with the fewest outstanding"
                " ones, and to the"
                f" replica that holds its prefix where one does; {chosen.replicas} replica(s)."
            ),
            (
                f"- **Batch scheduler**: in-flight batching, at most {chosen.batch} requests and"
                f" {plan.chosen.case.max_num_tokens}"
                " tokens an iteration, `guaranteed_no_evict`; prompts are split over iterations."
            ),
            (
                f"- **KV-cache manager**: blocks of 32 tokens, {chosen.memory.kv_bytes_per_token / 1024:.1f} KiB a"
                " token on each GPU,"
                f" room for {kv_requests(plan)} requests of mean length in a replica; prefixes are reused."
            ),
            "- **Load balancer**: in front of the gateways, by least connections; streams need no buffering there.",
            (
                f"- **Monitoring**: TTFT and time between tokens as users see them; `{goal.query}` for scaling; KV"
                " use above"
                f" {100 * goal.kv_fraction:.0f} % means that requests wait for memory."
            ),
        ]
    )


def data_flow(plan: Plan) -> str:
    """The way of one request, with this case's times."""
    chosen = plan.chosen
    return "\n".join(
        [
            "1. The gateway checks key, limits and length, and picks a replica; a full queue answers 429 at once.",
            (
                f"2. Triton's preprocessing tokenizes; the engine queues the request, at most"
                f" {sequence_tokens(plan)} tokens of prompt and reply."
            ),
            (
                f"3. The prompt's {plan.input.workload.input_tokens:g} tokens are computed in chunks between the"
                " tokens of running"
                f" replies: first token after {said(chosen.ttft_ms)} ms."
            ),
            (
                f"4. Each iteration adds a token to all {chosen.batch} replies: one every {said(chosen.tpot_ms)}"
                " ms. It is detokenized"
                " and streamed."
            ),
            "5. At the end, a stop string or a cancellation the blocks return to the pool and stay for reuse.",
        ]
    )


def capacity(plan: Plan) -> str:
    """The table of sizes, complexity and targets against predictions."""
    shape, chosen, memory = plan.model.shape, plan.chosen, plan.chosen.memory
    workload = plan.input.workload
    active = shape.dense_parameters + shape.active_expert_parameters
    context = workload.input_tokens + workload.output_tokens
    gib = 2**30
    rows = [
        (
            "parameters",
            f"{shape.parameters / 1e9:.2f} billion, {active / 1e9:.2f} billion used by a token",
            "from the shape",
        ),
        ("weights a GPU", f"{memory.weight_bytes / gib:.2f} GiB", chosen.case.weights.name),
        ("activations and runtime a GPU", f"{(memory.activation_bytes + memory.runtime_bytes) / gib:.2f} GiB", ""),
        (
            "KV cache a GPU",
            f"{memory.kv_cache_bytes / gib:.2f} GiB of {memory.capacity_bytes / gib:.2f} GiB",
            chosen.case.kv.name,
        ),
        ("time of a prompt", "O(n · parameters + n² · layers · hidden)", f"n = {workload.input_tokens:g}"),
        ("time of a token", "O(parameters + n · KV width · layers)", f"n up to {context:g}"),
        (
            "space of a request",
            "O(n · KV width · layers)",
            f"{memory.kv_bytes_per_token * context / gib:.3f} GiB a GPU",
        ),
        ("output tokens/s", said(chosen.tokens_per_s), f"all replicas; planned to run at {100 * LOAD:.0f} %"),
        ("requests/s", said(requests_per_s(plan)), "all replicas"),
        ("TTFT", f"{said(chosen.ttft_ms)} ms", _target(workload.ttft_ms)),
        ("TPOT", f"{said(chosen.tpot_ms)} ms", _target(workload.tpot_ms)),
        ("bottleneck", bottleneck(chosen), ""),
    ]
    rows += _cost_rows(plan)
    return "\n".join(["| quantity | value | note |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def _cost_rows(plan: Plan) -> list[tuple[str, str, str]]:
    if plan.cost is None:
        return [("cost", "unknown", "the catalogue has no list price for this GPU: give hardware.price_usd_hour")]
    price = f"${plan.cost.price_usd_hour:g} per GPU-hour, {catalogue_data('gpus.yaml')['price_source']}"
    if plan.input.hardware.price_usd_hour is not None:
        price = f"${plan.cost.price_usd_hour:g} per GPU-hour, as given"
    return [
        ("cost a month", f"${plan.cost.usd_per_month:,.0f}", price),
        ("cost of a million output tokens", f"${said(plan.cost.usd_per_million_output_tokens)}", "at full load"),
    ]


def trade_offs(plan: Plan) -> str:
    """For and against, as far as this plan decides it."""
    chosen, case = plan.chosen, plan.chosen.case
    lines = [
        f"- Pro: a replica fails alone; with {chosen.replicas} replica(s) the others keep serving."
        if chosen.replicas > 1
        else "- Con: one replica; while it restarts nothing is served.",
        (
            f"- Pro: {case.weights.bytes_per_weight:.3g} bytes a weight leave"
            f" {chosen.memory.kv_cache_bytes / 2**30:.1f} GiB for the KV"
            " cache on each GPU."
        ),
        (
            f"- Trade-off: batch {chosen.batch} makes each reply {number(chosen.tokens_per_s_per_user)} tokens/s"
            " fast and each GPU"
            f" {number(chosen.tokens_per_s_per_gpu)}; the ends of the Pareto front are {_ends(plan)}."
        ),
    ]
    if case.weights.name == "int4_awq":
        lines.append(
            "- Con: four-bit weights are expanded before each product, so long prompts and large batches run"
            " at 16-bit speed or"
            " less; check accuracy on your own tasks."
        )
    if case.weights.name in {"fp8", "nvfp4"}:
        lines.append("- Con: check accuracy on your own tasks; calibration text should look like your traffic.")
    if case.split.pp > 1:
        lines.append("- Con: a pipeline adds the time of its stages to each token; it buys memory, not latency.")
    lines.append(
        "- Where it is used: replicas of tensor-parallel groups behind a router are how Orca, vLLM and"
        " TensorRT-LLM deployments"
        " serve chat and batch loads; disaggregated prefill (DistServe, Splitwise) pays when TTFT and TPOT"
        " targets fight each other."
    )
    return "\n".join(lines)


def production(plan: Plan) -> str:
    """Scaling, failures, monitoring, cost."""
    goal, left = targets(plan), without_one_replica(plan)
    lost = (
        f"one replica less serves {said(left)} output tokens/s"
        if left
        else "nothing is served while the only replica is away"
    )
    return "\n".join(
        [
            (
                f"- **Scaling**: KEDA on `{goal.query}`, {goal.outstanding_per_replica} a replica"
                f" ({100 * LOAD:.0f} % of its batch);"
                " engines are built beforehand, so a start is loading and warming only. Measure that time and set"
                " it in `simulate`."
            ),
            f"- **Failure**: {lost}; requests under way are sent again, prefixes are computed anew.",
            (
                "- **Monitoring**: alert on the burn rate of the TTFT objective, on waiting requests, and on a"
                " replica that answers no"
                " probe; the watchdog reloads it."
            ),
            "- **Cost**: a GPU costs the same idle; scale to the load, and keep batch work for the valleys.",
        ]
    )


def references(plan: Plan) -> str:
    """The works that this plan leans on, from the bundled bibliography."""
    case = plan.chosen.case
    wanted = ["roofline", "little", "transformer", "orca", "paged_attention", "sarathi", "power_of_two", "radix"]
    wanted += ["megatron"] * (case.split.tp > 1) + ["gpipe"] * (case.split.pp > 1)
    wanted += ["mixtral"] * (plan.model.shape.experts is not None) + ["mla"] * (plan.model.shape.latent is not None)
    wanted += ["gqa"] * (plan.model.shape.kv_heads < plan.model.shape.heads)
    by_format = {"int4_awq": ["awq"], "fp8": ["fp8"], "mxfp4": ["microscaling"]}
    wanted += [*by_format.get(case.weights.name, []), "distserve", "splitwise", "speculative", "scaling_inference"]
    works = catalogue_data("bibliography.yaml")["works"]
    lines = []
    for key in wanted:
        work = works[key]
        lines.append(f"- {work['authors']}: [{work['title']}]({work['link']}), {work['date']}. {work['summary']}")
    return "\n".join(lines)


def checklist(plan: Plan) -> str:
    """What was checked while this document was written, and what only a machine with the GPUs can check."""
    memory = plan.chosen.memory
    deployment_yaml(plan)  # raises when the spec refuses it
    fits = memory.free_bytes >= memory.kv_cache_bytes > 0
    kept = "no" if plan.unmet else "yes, in the middle of the intervals"
    return "\n".join(
        [
            (
                f"- [x] Slipstream {__version__}, catalogues and calibration `{data_digest()}`; the same input"
                " gives this document."
            ),
            "- [x] The deployment file was accepted by the deployment spec.",
            (
                f"- [{'x' if fits else ' '}] Weights, activations, runtime and KV cache fit:"
                f" {(memory.capacity_bytes - memory.free_bytes + memory.kv_cache_bytes) / 2**30:.2f} of"
                f" {memory.capacity_bytes / 2**30:.2f} GiB."
            ),
            f"- [{' ' if plan.unmet else 'x'}] Latency targets kept: {kept}.",
            "- [ ] Measured on this hardware: run `slipstream perf` and compare with the intervals above.",
            "- [ ] Accuracy after quantization, on your own tasks.",
        ]
    )


def _target(limit_ms: float | None) -> str:
    return "no target" if limit_ms is None else f"at most {limit_ms:g} ms"


def _ends(plan: Plan) -> str:
    fast, full = plan.pareto[0], plan.pareto[-1]
    return " and ".join(
        f"{number(one.tokens_per_s_per_user)} a user, {number(one.tokens_per_s_per_gpu)} a GPU" for one in (fast, full)
    )
