"""Reads the hardware field: GPUs, how many, in how many nodes, joined by what; refuses what this stack cannot use."""

from __future__ import annotations

import re

from slipstream.errors import SpecError
from slipstream.plan.catalogue import Gpu, find_gpu, gpus, known_gpu
from slipstream.plan.inputs import HardwareInput
from slipstream.plan.understanding import Understanding, clipped

_REFUSED = (
    (r"\bTPUs?(?:[ -]?v\d\w*)?\b", "Google TPUs run JAX or PyTorch/XLA"),
    (r"\b(?:AMD|MI\d{3}\w?|Instinct|ROCm)\b", "AMD GPUs run ROCm"),
    (r"\b(?:Intel )?Gaudi ?\d?\b|\bHabana\b|\bHL-\d+\b", "Gaudi accelerators run SynapseAI"),
    (r"\b(?:Trainium|Inferentia|Trn\d|Inf\d|Neuron)\b", "AWS accelerators run Neuron"),
    (r"\b(?:Cerebras|Groq|SambaNova|Graphcore|IPU)\b", "it has a compiler of its own"),
    (r"\b(?:Apple|M[1-5] (?:Max|Ultra|Pro))\b", "Apple GPUs run Metal"),
    (r"\b(?:Intel Arc|Data Center GPU Max|Ponte Vecchio)\b", "Intel GPUs run oneAPI"),
    (r"\b(?:V100|T4|P100|P40|RTX 20[78]0)\b", "TensorRT-LLM 1.2.1 needs compute capability 8.0 or newer"),
)
_COUNT = re.compile(r"\b(\d+)\s*(?:x|×|\*)?\s*$", re.IGNORECASE)
_NODES = re.compile(
    r"\b(\d+|two|three|four|eight)\s*(?:x\s*)?(?:nodes?|servers?|hosts?|machines?|boxes)\b", re.IGNORECASE
)
_NETWORK = re.compile(r"(\d+)\s*(GbE|Gb/s|Gbps|Gbit\S*|G)\b|\b(HDR|NDR|XDR|EDR)\b", re.IGNORECASE)
_NO_NVLINK = re.compile(r"(?:no|without|lack\w*)\s+nvlink(?P<between>\s+between\s+nodes)?", re.IGNORECASE)
_NVLINK = re.compile(r"\bnv(?:link|switch)\b", re.IGNORECASE)
_WORDS = {"two": 2, "three": 3, "four": 4, "eight": 8}
_INFINIBAND = {"edr": 100, "hdr": 200, "ndr": 400, "xdr": 800}  # Gbit/s of a 4x port, InfiniBand Trade Association
_LONGEST_NAME = 7


def read_hardware(text: str, notes: Understanding) -> HardwareInput:
    """The machines that the text describes. Raises SpecError for hardware that TensorRT-LLM does not run on."""
    text = clipped(text)
    _refuse(text)
    words, gpu = _find(text)
    notes.took("gpu", gpu.name, words)
    nodes, per_node = _counts(text, words, gpu, notes)
    return HardwareInput(
        gpu=gpu.name,
        gpus_per_node=per_node,
        nodes=nodes,
        nvlink=_nvlink(text, gpu, notes),
        network_gbit_s=_network(text, nodes, notes),
        price_usd_hour=None,
    )


def _refuse(text: str) -> None:
    for pattern, why in _REFUSED:
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            raise SpecError(
                f"hardware: {match[0]} cannot be used: {why}, this stack serves with TensorRT-LLM",
                mend=f"name NVIDIA GPUs: {', '.join(gpu.name for gpu in gpus())}; or the CPU target openvino",
            )


def _find(text: str) -> tuple[str, Gpu]:
    pieces = re.findall(r"[^\s,;()]+", re.sub(r"(\d)\s*[x×]\s*(?=[A-Z])", r"\1 x ", text))
    for length in range(min(_LONGEST_NAME, len(pieces)), 0, -1):
        for start in range(len(pieces) - length + 1):
            run = [piece.rstrip(".") for piece in pieces[start : start + length]]
            gpu = known_gpu(" ".join(run))
            if gpu is not None:
                match = re.search(r"[\s,;()]+".join(map(re.escape, run)), text)
                return match[0] if match else " ".join(run), gpu
    return text, find_gpu(text)


def _counts(text: str, words: str, gpu: Gpu, notes: Understanding) -> tuple[int, int]:
    """Nodes, and GPUs of each."""
    before, _, after = text.partition(words)
    count = _COUNT.search(before.rstrip("x× "))
    said = _NODES.search(before[: count.start()] if count else before) or _NODES.search(after)
    if said is None and count is not None and re.match(r"\s*nodes?\b", after):
        number = int(count[1])
        per_node = min(number, gpu.gpus_per_node)
        notes.took("gpus", number, f"{count[0].strip()} {words}")
        notes.assumed(
            f'"{number}x {words} nodes" is read as one node of {per_node} GPUs, since {_joined(text, gpu)} joins the'
            f" GPUs of a node; if {number} nodes are meant, write {number} nodes of {gpu.gpus_per_node}x {gpu.name}."
        )
        return max(1, number // per_node), per_node
    nodes = _nodes(text, said, notes)
    if count is None:
        per_node = gpu.gpus_per_node
        notes.assumed(f"{per_node} GPUs in a node, as usual for the {gpu.name}; the text gives no number.")
        return nodes, per_node
    number = int(count[1])
    notes.took("gpus_per_node", number, f"{count[0].strip()} {words}")
    if nodes == 1 and number > gpu.gpus_per_node:
        nodes = -(-number // gpu.gpus_per_node)
        notes.assumed(f"{number} GPUs are {nodes} nodes of {gpu.gpus_per_node}, as usual for the {gpu.name}.")
        return nodes, gpu.gpus_per_node
    return nodes, number


def _nodes(text: str, said: re.Match[str] | None, notes: Understanding) -> int:
    if said is not None:
        nodes = _WORDS.get(said[1].lower(), 0) or int(said[1])
        notes.took("nodes", nodes, said[0])
        return nodes
    if re.search(r"\bnodes\b", text, re.IGNORECASE):
        notes.assumed("2 nodes: the text speaks of nodes and gives no number.")
        return 2
    return 1


def _joined(text: str, gpu: Gpu) -> str:
    match = _NVLINK.search(text)
    return match[0] if match else ("NVLink" if gpu.link == "nvlink" else "PCIe")


def _nvlink(text: str, gpu: Gpu, notes: Understanding) -> bool:
    denied = _NO_NVLINK.search(text)
    if denied and denied["between"] is None:
        notes.took("nvlink", "no", denied[0])
        return False
    named = _NVLINK.search(text)
    if named and denied is None and gpu.link == "pcie":
        notes.resolved(f'"{named[0]}": the {gpu.name} speaks PCIe in groups of more than two. Planned with PCIe.')
    return gpu.link == "nvlink"


def _network(text: str, nodes: int, notes: Understanding) -> float:
    match = _NETWORK.search(text)
    if match is None:
        if nodes > 1:
            notes.assumed("Network: 400 Gbit/s between nodes; none is given.")
        return 400
    value = float(match[1]) if match[1] else float(_INFINIBAND[match[3].lower()])
    notes.took("network_gbit_s", f"{value:g}", match[0])
    return value
