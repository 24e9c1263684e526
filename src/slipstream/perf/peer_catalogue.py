"""The peers: how each serves the bundled model, at its best on CPUs as far as its manual says."""

from __future__ import annotations

from pathlib import Path

from slipstream.perf.gguf_q8 import write_q8_gguf
from slipstream.perf.peer_environments import call_it_vllm, peer_environment
from slipstream.perf.peer_servers import Peer
from slipstream.progress import Reporter

VLLM = "0.32.0"
PASSIVE = "passive"  # OpenMP's threads sleep while they wait, and leave their core to the client


def make_peers(
    root: Path, model: Path, gguf: Path, *, streams: int, context_tokens: int, report: Reporter
) -> list[Peer]:
    """Every peer, its environment made under `root`/build/peers. `model` is a Hugging Face directory."""
    here, environments = root / "perf" / "peers", root / "build" / "peers"
    pythons = {
        name: peer_environment(name, here, environments, report) for name in ("llama-cpp", "vllm", "transformers")
    }
    call_it_vllm(pythons["vllm"], VLLM)
    sizes = (streams, context_tokens)
    q8 = environments / "q8_0.gguf"
    if not q8.exists():
        report("quantizing to Q8_0")
        write_q8_gguf(gguf, q8)
    return [
        *(
            _llama_cpp(pythons["llama-cpp"], here / "serve_llama_cpp.py", q8, sizes, policy)
            for policy in (None, PASSIVE)
        ),
        _vllm(pythons["vllm"], model, streams, context_tokens),
        _transformers(pythons["transformers"], model, streams * context_tokens),
    ]


def _llama_cpp(python: Path, script: Path, gguf: Path, sizes: tuple[int, int], wait_policy: str | None) -> Peer:
    """With threads that spin while they wait for each other, as it comes, or with threads that sleep."""

    def body(_: str, ids: list[int], tokens: int) -> dict[str, object]:
        return {"prompt": ids, "n_predict": tokens, "ignore_eos": True, "temperature": 0, "stream": True}

    return Peer(
        name="llama.cpp" if wait_policy is None else f"llama.cpp, {wait_policy} threads",
        precision="Q8_0 weights, 8-bit activations, f16 KV",
        command=lambda port: [python, script, gguf, str(port), *map(str, sizes)],
        environment={} if wait_policy is None else {"OMP_WAIT_POLICY": wait_policy},
        path="/completion",
        body=body,
    )


def _vllm(python: Path, model: Path, streams: int, context_tokens: int) -> Peer:
    def body(_: str, ids: list[int], tokens: int) -> dict[str, object]:
        length = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        return {"model": "peer", "prompt": ids, **length, "stream": True, "stream_options": {"include_usage": True}}

    def command(port: int) -> list[str | Path]:
        limits = ["--max-model-len", str(context_tokens), "--max-num-seqs", str(streams), "--dtype", "bfloat16"]
        where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "peer"]
        return [python.with_name("vllm"), "serve", model, *where, *limits]

    return Peer(
        name="vLLM",
        precision="bf16",
        command=command,
        environment={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "2", "DO_NOT_TRACK": "1"},
        path="/v1/completions",
        body=body,
    )


def _transformers(python: Path, model: Path, kv_tokens: int) -> Peer:
    def body(text: str, _: list[int], tokens: int) -> dict[str, object]:
        config = f'{{"do_sample": false, "max_new_tokens": {tokens}, "min_new_tokens": {tokens}}}'
        return {"model": str(model), "prompt": text, "generation_config": config, "stream": True}

    def command(port: int) -> list[str | Path]:
        cache = ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", str(kv_tokens // 32)]
        where = ["--host", "127.0.0.1", "--port", str(port)]
        return [
            python.with_name("transformers"),
            "serve",
            model,
            *where,
            "--device",
            "cpu",
            "--dtype",
            "bfloat16",
            *cache,
        ]

    return Peer(
        name="transformers serve",
        precision="bf16",
        command=command,
        environment={"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": PASSIVE},
        path="/v1/completions",
        body=body,
    )
