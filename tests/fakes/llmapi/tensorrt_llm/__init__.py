"""A stand-in for TensorRT-LLM's LLM API on a machine without a GPU: strict about names, and with a toy for a model.

It shares no code with Slipstream. The names that it takes are those of NVIDIA/TensorRT-LLM's 1.2 line,
tensorrt_llm/llmapi/llm_args.py and tensorrt_llm/sampling_params.py; `prompts.py` says what the toy answers.
"""

from tensorrt_llm.llm import LLM
from tensorrt_llm.sampling_params import SamplingParams

__all__ = ["LLM", "SamplingParams"]
