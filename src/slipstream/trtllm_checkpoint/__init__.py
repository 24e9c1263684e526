"""The TensorRT-LLM checkpoint format: config.json and rank{N}.safetensors, read and taken apart with NumPy alone."""
