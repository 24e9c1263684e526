"""The model and quantize stages: a Hugging Face checkpoint, and from it a TensorRT-LLM checkpoint."""
