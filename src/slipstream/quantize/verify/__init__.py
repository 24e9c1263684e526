"""The reference executor: runs a TensorRT-LLM checkpoint as it stands, and says what is wrong with it.

The files here are the executable definition of the format: `linear` what each quantization stores and computes,
`attention`, `mixture` and `decoder` the layers, `ranks` what ranks tell each other. `codes` and `tensors` check every
tensor against the Hugging Face model; `check` is the whole.
"""
