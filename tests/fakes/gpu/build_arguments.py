"""The arguments of `trtllm-build`, from the flag reference: types, choices, aliases; unknown ones are refused.

Stricter than the tool in one thing: an abbreviated flag, which argparse would complete, is refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from gpu.machine import contract

# LoraManager.LORA_MODULE_IDS of the 1.0 and 1.1 line: tensorrt_llm/lora_manager.py.
LORA_MODULES = (
    *("attn_qkv", "attn_q", "attn_k", "attn_v", "attn_dense", "mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate"),
    *("cross_attn_qkv", "cross_attn_q", "cross_attn_k", "cross_attn_v", "cross_attn_dense"),
    *("moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router", "mlp_router", "mlp_gate_up"),
)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments by name; argparse's own message and exit code 2 where one is wrong."""
    parser = argparse.ArgumentParser(prog="trtllm-build", allow_abbrev=False)
    for title, flags in contract("trtllm_build_flags")["groups"].items():
        group = parser.add_argument_group(title)
        for flag in flags:
            group.add_argument(flag["flag"], *flag.get("aliases", []), **_settings(flag))
    return parser.parse_args(argv)


def _settings(flag: dict[str, Any]) -> dict[str, Any]:
    name, kind = flag["flag"].removeprefix("--"), flag["type"]
    if kind == "store_true":
        return {"action": "store_true", "dest": name}
    default = flag["default"]
    settings: dict[str, Any] = {"dest": name, "default": None if str(default).startswith("(unset") else default}
    settings["type"] = int if kind == "int" else str
    if "choices" in flag:
        settings["choices"] = flag["choices"]
    if kind == "list[str]":
        settings["nargs"] = "+"
    if name == "lora_target_modules":
        settings["choices"] = LORA_MODULES
    if kind not in {"int", "str", "enum", "list[str]"}:
        raise AssertionError(f"{flag['flag']}: the reference has a new type, {kind}")
    return settings
