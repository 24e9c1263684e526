"""Renders the Triton model repository of a deployment and holds it to TensorRT-LLM's contract.

render       spec and locations → `model_repository/`; `models`, `engine_slot` and `llmapi` decide what is in it
sources      where each parameter comes from: a field of the spec, a derivation, or nowhere and why
limits       settings with which an engine would not load, refused before anything is rendered
verify       a model repository on disk against the contract; `profile` and `placement`: the models against each other
references   the renderings that are committed, and whether they are fresh
"""
