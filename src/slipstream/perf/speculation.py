"""What speculation in the CPU engine gains or loses: plain, n-grams, a draft, and the control.

Each way has a step loop in a process of its own, as the server runs it. They take turns in one run; ratios to plain are
taken round by round and their median is reported. Of two texts one is prose, the other repeats a passage of its prompt.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal

from slipstream.backend.messages import Ending, Generate, Step
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.requests import Penalties, StopRules
from slipstream.backend.speculation import Speculation, Wish
from slipstream.backend.step_process import StepProcess
from slipstream.errors import SlipstreamError
from slipstream.perf.provenance import provenance
from slipstream.progress import Reporter

TextKind = Literal["prose", "copy"]
PAGE = Path("docs") / "speculation.md"
RESULTS = Path("perf") / "results" / "speculation.json"
_BEGIN, _END = "<!-- measured by perf/speculation.py -->", "<!-- end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of each way."""

    streams: tuple[int, ...] = (1, 4, 8, 16)
    prompt_tokens: int = 64
    output_tokens: int = 128
    rounds: int = 5
    draft_len: int = 3
    warm_up_tokens: int = 4096  # a stream, before a way that measures for itself is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculationRow:
    """One way of generating, beside plain steps."""

    text: TextKind
    streams: int
    way: str
    tokens_per_s: float
    ratio_to_plain: float
    ratio_min: float
    ratio_max: float
    draft_tokens: int
    acceptance_rate: float


@dataclass(slots=True)
class _Run:
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    wall_s: float = 0.0


def measure_speculation(
    settings: PipelineSettings, draft: Path | None, ids: Sequence[int], load: Load, report: Reporter
) -> list[SpeculationRow]:
    """Rows for the engine of `settings`, with the engine in `draft` where there is one; `ids` is a long prose."""
    kinds = {"ngram": None, **({} if draft is None else {"draft": draft})}
    with ExitStack() as stack:
        loops = {"plain": stack.enter_context(_Loop(settings))}
        for name, directory in kinds.items():
            speculation = Speculation(max_draft_len=load.draft_len, draft_engine_dir=directory)
            loops[name] = stack.enter_context(_Loop(replace(settings, speculation=speculation)))
        ways: dict[str, _Way] = {"plain": _Way(loops["plain"], "off")}
        for name in kinds:
            ways[name] = _Way(loops[name], "on")
            ways[f"{name}, automatic"] = _Way(loops[name], "auto")
        texts: tuple[TextKind, ...] = ("prose", "copy")
        prompts = {text: _Prompts(ids, load.prompt_tokens, repeats=text == "copy") for text in texts}
        return [
            row
            for text in texts
            for streams in load.streams
            for row in _take_turns(ways, prompts[text], text, streams, load, report)
        ]


class _Loop:
    """A step loop, driven from here as the model would."""

    def __init__(self, settings: PipelineSettings) -> None:
        self._process = StepProcess(settings)
        self._handles = count(1)

    def run(self, prompts: Sequence[list[int]], tokens: int, wish: Wish) -> _Run:
        stop = StopRules(max_new_tokens=tokens, min_new_tokens=0, end_id=None, stop_words=(), bad_words=())
        run, began = _Run(), time.perf_counter()
        for ids in prompts:
            self._process.send(
                Generate(next(self._handles), ids, None, Penalties(), stop, (), log_probs=False, speculation=wish)
            )
        running = len(prompts)
        while running:
            message = self._process.receive()
            if not isinstance(message, Step):
                raise SlipstreamError("the step loop has died", mend="read the log above")
            for new in message.tokens:
                if new.ending is Ending.FAILED:
                    raise SlipstreamError(f"a request failed: {new.failure}", mend="read the log above")
                run.tokens += len(new.ids)
                run.drafted += new.drafted
                run.accepted += new.accepted
                running -= new.ending is not None
        run.wall_s = time.perf_counter() - began
        return run

    def __enter__(self) -> _Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()
        self._process.forget()


@dataclass(frozen=True, slots=True)
class _Way:
    loop: _Loop
    wish: Wish


@dataclass(slots=True)
class _Prompts:
    """Prompts that no earlier run has had: windows of a text, or a passage and its first half once more."""

    ids: Sequence[int]
    tokens: int
    repeats: bool
    numbers: count[int] = field(default_factory=count)

    def take(self, streams: int) -> list[list[int]]:
        return [self._prompt(next(self.numbers)) for _ in range(streams)]

    def _prompt(self, number: int) -> list[int]:
        start = (number * 37) % (len(self.ids) - self.tokens)
        window = list(self.ids[start : start + self.tokens])
        if not self.repeats:
            return window
        passage = window[: 2 * self.tokens // 5]
        return [*passage, *passage, *passage[: self.tokens - 2 * len(passage)]]


def _take_turns(
    ways: Mapping[str, _Way], prompts: _Prompts, text: TextKind, streams: int, load: Load, report: Reporter
) -> list[SpeculationRow]:
    names = list(ways)
    _warm_up(ways, prompts, streams, load, report)
    runs: dict[str, list[_Run]] = {name: [] for name in names}
    for number in range(load.rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            report(f"{text}, {streams} streams, {name}", number / load.rounds)
            runs[name].append(ways[name].loop.run(prompts.take(streams), load.output_tokens, ways[name].wish))
    return [_row(text, streams, name, runs[name], runs["plain"]) for name in names]


def _warm_up(ways: Mapping[str, _Way], prompts: _Prompts, streams: int, load: Load, report: Reporter) -> None:
    """Each way once, and those that measure for themselves for as long as they need."""
    for name, way in ways.items():
        times = load.warm_up_tokens // load.output_tokens if way.wish == "auto" else 1
        for number in range(times):
            report(f"{streams} streams, warming up {name}", number / times)
            way.loop.run(prompts.take(streams), load.output_tokens, way.wish)


def _row(text: TextKind, streams: int, name: str, runs: Sequence[_Run], plain: Sequence[_Run]) -> SpeculationRow:
    speeds = [run.tokens / run.wall_s for run in runs]
    ratios = [speed * other.wall_s / other.tokens for speed, other in zip(speeds, plain, strict=True)]
    drafted = sum(run.drafted for run in runs)
    return SpeculationRow(
        text=text,
        streams=streams,
        way=name,
        tokens_per_s=round(statistics.median(speeds), 1),
        ratio_to_plain=round(statistics.median(ratios), 3),
        ratio_min=round(min(ratios), 3),
        ratio_max=round(max(ratios), 3),
        draft_tokens=drafted,
        acceptance_rate=round(sum(run.accepted for run in runs) / drafted, 3) if drafted else 0.0,
    )


def format_rows(rows: Sequence[SpeculationRow]) -> str:
    """The table of docs/speculation.md."""
    head = "| text | streams | way | tokens/s | of plain | lowest and highest round | draft tokens accepted |"
    lines = [head, "|---|--:|---|--:|--:|---|--:|"]
    for row in rows:
        accepted = f"{row.acceptance_rate:.0%}" if row.draft_tokens else "–"
        lines.append(
            f"| {row.text} | {row.streams} | {row.way} | {row.tokens_per_s:.0f} | {row.ratio_to_plain:.2f} |"
            f" {row.ratio_min:.2f}–{row.ratio_max:.2f} | {accepted} |"
        )
    return "\n".join(lines)


def write_results(root: Path, rows: Sequence[SpeculationRow], load: Load, *, draft: str | None) -> None:
    """The results as JSON, and their table into the page."""
    result = {"load": asdict(load), "draft": draft, "machine": provenance(), "rows": [asdict(row) for row in rows]}
    (root / RESULTS).write_text(json.dumps(result, indent=2) + "\n")
    page = root / PAGE
    before, rest = page.read_text().split(_BEGIN)
    page.write_text(f"{before}{_BEGIN}\n{format_rows(rows)}\n{_END}{rest.split(_END)[1]}")
