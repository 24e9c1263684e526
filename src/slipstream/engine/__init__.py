"""The build stage: a TensorRT-LLM checkpoint becomes an engine directory.

Read in this order: `architecture` (what config.json describes), `checkpoint` (its tensors, whole again),
`quantize_rows` (INT8 rows), `weights` (constants), `graph` (the model), `openvino` (the engine directory of target
`openvino`).
"""
