"""One launch for all tensors, one program a model: the norm of its gradient first, then every element once.

Reads θ, g (twice; the second time from the cache where a model is small), m, v; writes θ, m, v.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

BLOCK = 1024


@triton.jit
def _update_kernel(
    p_table, p_sizes, p_alive, p_rate, p_decay, p_stays, tensors, clip, beta1, beta2, correction1, correction2, epsilon,
    DTYPE: tl.constexpr, CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`p_table` `[4, tensors]` holds the addresses of θ, g, m, v; `p_sizes` the entries of one model."""
    i_model = tl.program_id(0).to(tl.int64)
    o_block = tl.arange(0, BLOCK)
    b_squares = tl.zeros([BLOCK], tl.float32)
    for i in range(tensors):
        size = tl.load(p_sizes + i)
        p_g = tl.load(p_table + tensors + i).to(tl.pointer_type(DTYPE)) + i_model * size
        for start in range(0, size, BLOCK):
            b_g = tl.load(p_g + start + o_block, start + o_block < size, 0.0).to(tl.float32)
            b_squares += b_g * b_g
    norm = tl.sqrt(tl.sum(b_squares, 0))
    finite = (norm == norm) & (norm < float("inf"))
    stays = (tl.load(p_alive + i_model) != 0) & finite
    tl.store(p_stays + i_model, stays)
    factor = 1.0
    if CLIP:
        factor = tl.minimum(clip / (norm + 1e-6), 1.0)
    rate = tl.load(p_rate + i_model).to(tl.float32)
    keep = 1.0 - rate * tl.load(p_decay + i_model).to(tl.float32)
    for i in range(tensors):
        size = tl.load(p_sizes + i)
        p_theta = tl.load(p_table + i).to(tl.pointer_type(DTYPE)) + i_model * size
        p_g = tl.load(p_table + tensors + i).to(tl.pointer_type(DTYPE)) + i_model * size
        p_m = tl.load(p_table + 2 * tensors + i).to(tl.pointer_type(DTYPE)) + i_model * size
        p_v = tl.load(p_table + 3 * tensors + i).to(tl.pointer_type(DTYPE)) + i_model * size
        for start in range(0, size, BLOCK):
            o = start + o_block
            m_block = o < size
            b_g = tl.load(p_g + o, m_block, 0.0).to(tl.float32)
            b_g = tl.where(stays, b_g * factor, 0.0)  # NaN times zero is NaN
            b_m = beta1 * tl.load(p_m + o, m_block, 0.0).to(tl.float32) + (1 - beta1) * b_g
            b_v = beta2 * tl.load(p_v + o, m_block, 0.0).to(tl.float32) + (1 - beta2) * b_g * b_g
            tl.store(p_m + o, b_m, m_block)
            tl.store(p_v + o, b_v, m_block)
            b_direction = b_m / correction1 / (tl.sqrt(b_v / correction2) + epsilon)
            b_theta = tl.load(p_theta + o, m_block, 0.0).to(tl.float32)
            b_moved = b_theta * keep - rate * b_direction
            tl.store(p_theta + o, tl.where(stays, b_moved, b_theta), m_block)


_ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def refused(part: str, parameters: list[Tensor], gradients: list[Tensor], *rest: object) -> str:
    """The kernel walks through memory, so tensors must lie in one piece and be of one real dtype."""
    if not all(tensor.is_contiguous() for tensor in parameters):
        return "a parameter tensor is not contiguous"
    kinds = {tensor.dtype for tensor in parameters}
    return "" if len(kinds) == 1 and kinds <= set(_ELEMENTS) else "its tensors must have one real dtype"


def update(
    parameters: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor], alive: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, step: int, gradient_clip: float | None, beta1: float, beta2: float, epsilon: float,
) -> Tensor:  # fmt: skip
    """See `population_adam`."""
    stays = torch.empty_like(alive)
    given = [g.to(theta.dtype).contiguous() for g, theta in zip(gradients, parameters, strict=True)]
    addresses = [[tensor.data_ptr() for tensor in tensors] for tensors in (parameters, given, first, second)]
    device = alive.device
    table = torch.tensor(addresses, dtype=torch.int64, device=device)
    sizes = torch.tensor([theta[0].numel() for theta in parameters], dtype=torch.int64, device=device)
    _update_kernel[(len(alive),)](
        table, sizes, alive, learning_rate, weight_decay, stays, len(parameters), gradient_clip or 0.0, beta1, beta2,
        1 - beta1**step, 1 - beta2**step, epsilon, DTYPE=_ELEMENTS[parameters[0].dtype], CLIP=gradient_clip is not None,
        BLOCK=min(BLOCK, triton.next_power_of_2(max(theta[0].numel() for theta in parameters))), num_warps=4,
    )  # fmt: skip
    return stays


CONFIGURATIONS = [
    Configuration(
        _update_kernel,
        {"p_table": "i64", "p_sizes": "i64", "p_alive": "i1", "p_rate": "fp32", "p_decay": "fp32", "p_stays": "i1"},
        {"DTYPE": element, "CLIP": True, "BLOCK": BLOCK},
        {
            "tensors": "i32",
            **dict.fromkeys(("clip", "beta1", "beta2", "correction1", "correction2", "epsilon"), "fp32"),
        },
    )
    for element in (tl.float32, tl.bfloat16)
]
