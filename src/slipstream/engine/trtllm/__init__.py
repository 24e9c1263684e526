"""Target `tensorrt_llm`: a TensorRT-LLM checkpoint becomes an engine directory by `trtllm-build`.

Read in this order: `facts` (what config.json of the checkpoint says), `rules` and `option_rules` (what is refused
before the run), `plan` (the command, and why each derived value is what it is), `expected` (what the engine will say of
itself), `run` (the run), `failures` (why it failed), `made` (what it left), `gpus` (the GPUs of this machine).
"""

from slipstream.engine.trtllm.expected import Derived
from slipstream.engine.trtllm.facts import CheckpointFacts, planned_facts, read_facts
from slipstream.engine.trtllm.gpus import Gpu, query_gpus
from slipstream.engine.trtllm.plan import BuildPlan, plan_build
from slipstream.engine.trtllm.rules import check_pair
from slipstream.engine.trtllm.run import EngineReport, build_engine

__all__ = [
    "BuildPlan",
    "CheckpointFacts",
    "Derived",
    "EngineReport",
    "Gpu",
    "build_engine",
    "check_pair",
    "plan_build",
    "planned_facts",
    "query_gpus",
    "read_facts",
]
