"""The two cases that the documentation plans, in the words in which they were asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Model, workload and hardware as a person writes them."""

    model: str
    workload: str
    hardware: str


EXAMPLES = {
    "llama-3-70b-chat-on-h100": Texts(
        model="Llama-3-70B instruct, INT8 AWQ quantization, 8K context window.",
        workload="High concurrency chat application, average input 500 tokens, average output 1500 tokens."
        " Needs high token generation throughput.",
        hardware="8x H100 80GB SXM5 nodes connected via NVSwitch.",
    ),
    "mixtral-8x22b-batch-on-a100": Texts(
        model="Mixtral 8x22B, FP16.",
        workload="Batch processing of documents, 20k-token inputs, 500 token outputs."
        " Throughput matters, latency does not.",
        hardware="2 nodes of 8x A100 80GB PCIe without NVLink between nodes, 100 GbE.",
    ),
}
