"""Reads the workload field: lengths, load, latency targets, and what is to be best."""

from __future__ import annotations

import re
from typing import Literal

from slipstream.plan.inputs import Objective, WorkloadInput
from slipstream.plan.understanding import Understanding, clipped, quantity

Kind = Literal["chat", "batch", "completion", "retrieval", "agent"]

_N = r"(\d[\d,.]*\s?k?)\b"
_IN, _OUT = (
    r"(?:inputs?|prompts?|contexts?|isl|questions?)",
    r"(?:outputs?|repl(?:y|ies)|responses?|completions?|generat\w+|osl|answers?)",
)
_OF = r"(?:\s*(?:length|size|tokens?))?\s*(?:is|of|:|=|about|around|~|≈|averag\w+)*\s*"
_LENGTHS = (r"{what}" + _OF + _N, _N + r"[- ]*(?:tokens?)?[- ]*(?:long[- ])?(?:of\s+)?{what}")
_SECONDS = (
    r"\s*(?:under|below|less than|at most|within|<=?|≤|of|:|=|target)*\s*(\d[\d.,]*)\s*(ms|milliseconds?|s|sec\w*)\b"
)
_TTFT = re.compile(r"(?:ttft|(?:time to )?first[- ]token(?: latency)?)" + _SECONDS, re.IGNORECASE)
_TPOT = re.compile(r"(?:tpot|itl|inter[- ]token(?: latency)?|per token|time between tokens)" + _SECONDS, re.IGNORECASE)
_RATE = re.compile(
    _N + r"\s*(?:requests?|reqs?|queries)\s*(?:/|per|a)\s*(s|sec\w*|min\w*|h\w*|day)|" + _N + r"\s*(rps|qps)",
    re.IGNORECASE,
)
_CONCURRENT = re.compile(
    _N + r"\s*(?:concurrent|simultaneous|parallel)|(?:concurrency|concurrent (?:users|requests))\s*(?:of|:|=)?\s*" + _N,
    re.IGNORECASE,
)
_KINDS: tuple[tuple[str, Kind, float, float], ...] = (
    # Lengths are used only where the text gives none; of the public traces' order (Azure LLM inference 2023: code
    # 2,048 / 28, conversation 1,155 / 211 tokens in the mean), rounded.
    (r"\bbatch|offline|bulk|summari[sz]", "batch", 2000, 200),
    (r"\brag\b|retrieval|document|search", "retrieval", 4000, 300),
    (r"\bagent|tool", "agent", 4000, 500),
    (r"\bcode|autocomplete|completion\b", "completion", 2000, 30),
    (r"\bchat|assistant|conversation", "chat", 1200, 200),
)
_PER_SECOND = {"s": 1, "m": 60, "h": 3600, "d": 86400}
# What a reader perceives as prompt and fluent; MLPerf Inference's interactive Llama 2 70B scenario asks for 450 ms and
# 40 ms at the 99th percentile, its server scenario for 2 s and 200 ms.
_CHAT_TTFT_MS, _CHAT_TPOT_MS = 2000, 50


def read_workload(text: str, notes: Understanding) -> WorkloadInput:
    """The load that the text describes, with an assumption for everything that it leaves open."""
    text = clipped(text)
    kind, usual_in, usual_out = _kind(text, notes)
    objective = _objective(text, kind, notes)
    ttft, tpot = _milliseconds(_TTFT, "ttft_ms", text, notes), _milliseconds(_TPOT, "tpot_ms", text, notes)
    if kind != "batch" and ttft is None:
        ttft = float(_CHAT_TTFT_MS)
        notes.assumed(f"Latency: mean time to the first token of at most {_CHAT_TTFT_MS} ms, for people who wait.")
    if kind != "batch" and tpot is None:
        tpot = float(_CHAT_TPOT_MS)
        notes.assumed(f"Latency: at most {_CHAT_TPOT_MS} ms between tokens, faster than people read.")
    return WorkloadInput(
        kind=kind,
        input_tokens=_length(_IN, "input_tokens", usual_in, text, notes),
        output_tokens=_length(_OUT, "output_tokens", usual_out, text, notes),
        concurrency=_concurrency(text, notes),
        requests_per_s=_rate(text, notes),
        ttft_ms=ttft,
        tpot_ms=tpot,
        objective=objective,
    )


def _kind(text: str, notes: Understanding) -> tuple[Kind, float, float]:
    for pattern, kind, usual_in, usual_out in _KINDS:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            notes.took("kind", kind, match[0])
            return kind, usual_in, usual_out
    notes.assumed("Kind of load: chat, since none is named.")
    return "chat", 1200, 200


def _objective(text: str, kind: Kind, notes: Understanding) -> Objective:
    words: tuple[tuple[str, Objective], ...] = (
        (r"low(?:est)?[- ]latency|interactive|real[- ]?time|latency[- ](?:critical|sensitive)", "latency"),
        (r"cheap\w*|low(?:est)?[- ]cost|cost[- ]\w+|budget", "cost"),
        (r"throughput|tokens?/s|tokens per second|high concurrency", "throughput"),
    )
    for pattern, objective in words:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            notes.took("objective", objective, match[0])
            return objective
    notes.assumed("Objective: throughput" + (" within the latency targets." if kind != "batch" else "."))
    return "throughput"


def _length(what: str, name: str, usual: float, text: str, notes: Understanding) -> float:
    for form in _LENGTHS:
        match = re.search(form.format(what=what), text, re.IGNORECASE)
        if match:
            tokens = quantity(match[1].replace(" ", "").rstrip("."))
            notes.took(name, f"{tokens:g}", match[0])
            return max(tokens, 1)
    notes.assumed(f"{name}: {usual:g}, usual for this kind of load; none is given.")
    return usual


def _concurrency(text: str, notes: Understanding) -> float | None:
    match = _CONCURRENT.search(text)
    if match is None:
        return None
    value = quantity((match[1] or match[2]).replace(" ", ""))
    notes.took("concurrency", f"{value:g}", match[0])
    return value


def _rate(text: str, notes: Understanding) -> float | None:
    match = _RATE.search(text)
    if match is None:
        return None
    value = quantity((match[1] or match[3]).replace(" ", "")) / (_PER_SECOND[match[2][0].lower()] if match[2] else 1)
    notes.took("requests_per_s", f"{value:g}", match[0])
    return value


def _milliseconds(pattern: re.Pattern[str], name: str, text: str, notes: Understanding) -> float | None:
    match = pattern.search(text)
    if match is None:
        return None
    value = quantity(match[1]) * (1 if match[2].lower().startswith("m") else 1000)
    notes.took(name, f"{value:g}", match[0])
    return value
