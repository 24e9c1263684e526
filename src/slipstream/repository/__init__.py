"""Renders the Triton model repository of a deployment and holds it to TensorRT-LLM's contract.

render       spec and locations → `model_repository/`
verify       a model repository on disk against the contract
references   the renderings that are committed, and whether they are fresh
"""
