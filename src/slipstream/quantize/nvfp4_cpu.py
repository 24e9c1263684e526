"""NVFP4 fake quantization without CUDA.

ModelOpt's dynamic block quantizer asserts CUDA. What is computed here is the value of its `NVFP4QTensor`, which runs
anywhere and writes the exported weights (modelopt/torch/quantization/qtensor/nvfp4_tensor.py): blocks of 16 along the
last axis, an E4M3 scale for each within one float32 scale of the whole tensor, E2M1 values rounded half to even. The
tests compare the two bit for bit. With tensors on a GPU ModelOpt's own kernel runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 16
E2M1_MAX = 6.0
E4M3_MAX = 448.0
E4M3_MIN = 2.0**-9  # the smallest number above 0: a scale of 0 would lose the block
_ELEMENT_BITS, _ELEMENT_EXPONENT_BITS, _SCALE_BITS, _SCALE_EXPONENT_BITS = 4, 2, 8, 4


def allow_nvfp4_on_cpu() -> None:
    """Let ModelOpt's NVFP4 quantizers compute on the CPU in this process; calling it again is harmless."""
    from modelopt.torch.quantization import tensor_quant

    original = tensor_quant.dynamic_block_quantize_op
    if getattr(original, "has_cpu_path", False):
        return

    def dynamic_block_quantize(inputs: Tensor, block_size: int, amax: Tensor | None, *bits: int) -> Any:
        nvfp4 = (_ELEMENT_BITS, _ELEMENT_EXPONENT_BITS, _SCALE_BITS, _SCALE_EXPONENT_BITS)
        if inputs.is_cuda or amax is None or block_size != BLOCK or bits != nvfp4:
            return original(inputs, block_size, amax, *bits)
        return fake_quantize(inputs, amax)

    dynamic_block_quantize.has_cpu_path = True  # type: ignore[attr-defined]
    tensor_quant.dynamic_block_quantize_op = dynamic_block_quantize


def fake_quantize(inputs: Tensor, amax: Tensor) -> Tensor:
    """`inputs` [..., n x 16] rounded to NVFP4 under the tensor's `amax`, in the type of `inputs`."""
    import torch

    blocks = inputs.float().reshape(*inputs.shape[:-1], -1, BLOCK)
    tensor_scale = amax.float().amax() / (E2M1_MAX * E4M3_MAX)
    block_scale = blocks.abs().amax(-1, keepdim=True) / (E2M1_MAX * tensor_scale)
    block_scale = torch.where(block_scale == 0, 1.0, block_scale)
    scale = block_scale.clamp(E4M3_MIN, E4M3_MAX).to(torch.float8_e4m3fn).float() * tensor_scale
    return (_round_e2m1(blocks / scale) * scale).flatten(-2).to(inputs.dtype)


def _round_e2m1(values: Tensor) -> Tensor:
    """To the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with its sign; torch rounds halves to even as E2M1 does."""
    import torch

    magnitude = values.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    return ((magnitude / step).round_() * step).clamp_(max=E2M1_MAX).copysign_(values)
