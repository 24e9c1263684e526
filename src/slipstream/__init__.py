"""Slipstream: from a Hugging Face checkpoint to a production LLM endpoint on TensorRT-LLM and Triton."""

__version__ = "0.1.0"
