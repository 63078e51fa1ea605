"""One launch for all steps, one program a model.

Layers are padded to one square `[WIDTH, WIDTH]`, exactly: a padded weight gets no gradient. A model's weights, moments,
gradients and the activations of one tile of samples are a few kilobytes that its program alone touches, so they stay
in the caches of its multiprocessor; registers hold one layer at a time. Reads the data and the model, writes the model.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from modelzoo.kernels.registry import Configuration

TILE, MOST_WIDTH, MOST_LAYERS = 16, 64, 6
STAGES = 1
CODES = {"relu": 0, "tanh": 1, "sin": 2, "gelu": 3}


@triton.jit
def _tanh(z):
    return 2.0 * tl.sigmoid(2.0 * z) - 1.0


@triton.jit
def _wave(z, shift):
    """sin(z + shift·π/2) to 1e-7 for |z| < 10⁴: π/2 in three parts, then Taylor. The library's sine spills registers."""
    quarter = tl.floor(z * 0.6366197723675814 + 0.5)
    r = z - quarter * 1.5703125 - quarter * 4.837512969970703e-4 - quarter * 7.549789954891882e-8
    s = r * r
    b_sin = r + r * s * (-1 / 6 + s * (1 / 120 + s * (-1 / 5040 + s * (1 / 362880))))
    b_cos = 1.0 + s * (-0.5 + s * (1 / 24 + s * (-1 / 720 + s * (1 / 40320))))
    turn = (quarter.to(tl.int32) + shift) & 3
    b = tl.where((turn & 1) == 0, b_sin, b_cos)
    return tl.where(turn < 2, b, -b)


@triton.jit
def _activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        return tl.maximum(z, 0.0)
    elif ACTIVATION == 1:
        return _tanh(z)
    elif ACTIVATION == 2:
        return _wave(z, 0)
    else:
        return 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476))


@triton.jit
def _slope(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == 0:
        return tl.where(z > 0, 1.0, 0.0)
    elif ACTIVATION == 1:
        b_h = _tanh(z)
        return 1.0 - b_h * b_h
    elif ACTIVATION == 2:
        return _wave(z, 1)
    else:
        return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476)) + z * tl.exp(-0.5 * z * z) * 0.3989422804014327


@triton.jit
def _train_kernel(
    p_weights, p_biases, p_m, p_v, p_m_bias, p_v_bias, p_g, p_g_bias, p_before, p_x, p_y, p_rows, p_rate, p_decay, p_losses,
    layers, samples, features, outputs, steps, start, batch, x_stride, y_stride, frequency, beta1, beta2, log_beta1, log_beta2, epsilon,
    ACTIVATION: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr, LABELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """`p_before` `[M, layers, TILE, WIDTH]`: what enters every layer, before its activation; `p_rows` counts if ROWS."""
    i_model = tl.program_id(0).to(tl.int64)
    o, o_row = tl.arange(0, WIDTH), tl.arange(0, TILE)
    o_square = o[:, None] * WIDTH + o[None, :]
    o_tile = o_row[:, None] * WIDTH + o[None, :]
    i_weights, i_biases = i_model * layers * WIDTH * WIDTH, i_model * layers * WIDTH
    p_before += i_model * layers * TILE * WIDTH
    rate = tl.load(p_rate + i_model).to(tl.float32)
    keep = 1.0 - rate * tl.load(p_decay + i_model).to(tl.float32)
    alive = rate == rate
    for step in range(steps):
        for layer in range(layers):
            tl.store(p_g + i_weights + layer * WIDTH * WIDTH + o_square, tl.zeros([WIDTH, WIDTH], tl.float32))
            tl.store(p_g_bias + i_biases + layer * WIDTH + o, tl.zeros([WIDTH], tl.float32))
        loss = 0.0
        for first in range(0, batch, TILE):
            m_row = first + o_row < batch
            o_sample = first + o_row
            if ROWS:
                o_sample = tl.load(p_rows + (i_model * steps + step) * batch + first + o_row, m_row, 0)
            m_x = m_row[:, None] & (o < features)[None, :]
            m_y = m_row[:, None] & (o < outputs)[None, :]
            b_h = tl.load(p_x + i_model * x_stride + o_sample[:, None] * features + o[None, :], m_x, 0.0).to(tl.float32)
            if LABELS:
                b_y = tl.load(p_y + i_model * y_stride + o_sample, m_row, 0)
            else:
                b_y = tl.load(p_y + i_model * y_stride + o_sample[:, None] * outputs + o[None, :], m_y, 0.0).to(
                    tl.float32
                )
            tl.store(p_before + o_tile, b_h)
            for layer in range(layers):
                b_w = tl.load(p_weights + i_weights + layer * WIDTH * WIDTH + o_square)
                b_b = tl.load(p_biases + i_biases + layer * WIDTH + o)
                b_h = tl.dot(b_h, tl.trans(b_w), input_precision="ieee") + b_b[None, :]
                if layer < layers - 1:
                    b_h = frequency * b_h
                    tl.store(p_before + (layer + 1) * TILE * WIDTH + o_tile, b_h)
                    b_h = _activate(b_h, ACTIVATION)
            if LABELS:
                b_own = o[None, :] == b_y[:, None]
                b_h = tl.where((o < outputs)[None, :], b_h, float("-inf"))
                b_h -= tl.max(b_h, 1)[:, None]
                b_e = tl.exp(b_h)
                b_sum = tl.sum(b_e, 1)
                b_missed = tl.log(b_sum) - tl.sum(tl.where(b_own, b_h, 0.0), 1)
                loss += tl.sum(tl.where(m_row, b_missed, 0.0), 0) / batch
                b_d = tl.where(m_y, (b_e / b_sum[:, None] - tl.where(b_own, 1.0, 0.0)) / batch, 0.0)
            else:
                b_gap = tl.where(m_y, b_h - b_y, 0.0)
                loss += tl.sum(tl.sum(b_gap * b_gap, 1), 0) / (batch * outputs)
                b_d = 2.0 * b_gap / (batch * outputs)
            tl.debug_barrier()  # every thread sees what the others stored
            for i in range(layers):
                layer = layers - 1 - i
                b_before = tl.load(p_before + layer * TILE * WIDTH + o_tile)
                b_h = b_before
                if layer > 0:
                    b_h = _activate(b_before, ACTIVATION)
                p_own, p_own_bias = (
                    p_g + i_weights + layer * WIDTH * WIDTH + o_square,
                    p_g_bias + i_biases + layer * WIDTH + o,
                )
                b_g = tl.dot(tl.trans(b_d), b_h, input_precision="ieee")
                tl.store(p_own, tl.load(p_own) + b_g)
                tl.store(p_own_bias, tl.load(p_own_bias) + tl.sum(b_d, 0))
                if layer > 0:
                    b_w = tl.load(p_weights + i_weights + layer * WIDTH * WIDTH + o_square)
                    b_d = tl.dot(b_d, b_w, input_precision="ieee") * _slope(b_before, ACTIVATION) * frequency
            tl.debug_barrier()
        tl.store(p_losses + i_model * steps + step, loss)
        squares = 0.0
        for layer in range(layers):
            b_g = tl.load(p_g + i_weights + layer * WIDTH * WIDTH + o_square)
            b_g_bias = tl.load(p_g_bias + i_biases + layer * WIDTH + o)
            squares += tl.sum(tl.sum(b_g * b_g, 1), 0) + tl.sum(b_g_bias * b_g_bias, 0)
        alive = alive & (squares < float("inf"))  # false for NaN too
        now = (start + step + 1).to(tl.float32)
        correction1, correction2 = 1.0 - tl.exp(now * log_beta1), 1.0 - tl.exp(now * log_beta2)
        for layer in range(layers):
            _adam(
                p_weights,
                p_m,
                p_v,
                p_g,
                i_weights + layer * WIDTH * WIDTH + o_square,
                alive,
                rate,
                keep,
                beta1,
                beta2,
                correction1,
                correction2,
                epsilon,
            )
            _adam(
                p_biases,
                p_m_bias,
                p_v_bias,
                p_g_bias,
                i_biases + layer * WIDTH + o,
                alive,
                rate,
                keep,
                beta1,
                beta2,
                correction1,
                correction2,
                epsilon,
            )
        tl.debug_barrier()  # fmt: skip


@triton.jit
def _adam(p_theta, p_m, p_v, p_g, o, alive, rate, keep, beta1, beta2, correction1, correction2, epsilon):
    b_theta = tl.load(p_theta + o)
    b_g = tl.where(alive, tl.load(p_g + o), 0.0)
    b_m = beta1 * tl.load(p_m + o) + (1.0 - beta1) * b_g
    b_v = beta2 * tl.load(p_v + o) + (1.0 - beta2) * b_g * b_g
    b_moved = keep * b_theta - rate * (b_m / correction1) / (tl.sqrt(b_v / correction2) + epsilon)
    tl.store(p_m + o, b_m)
    tl.store(p_v + o, b_v)
    tl.store(p_theta + o, tl.where(alive, b_moved, b_theta))


def _warps(width: int) -> int:
    return 8 if width > 32 else 4  # one layer must fit into the registers


def refused(part: str, weights: list[Tensor], *rest: object) -> str:
    """A layer must fit into registers."""
    widest = max(max(w.shape[1:]) for w in weights)
    if widest > MOST_WIDTH or len(weights) > MOST_LAYERS:
        return f"{len(weights)} layers up to {widest} wide are too many; the most are {MOST_LAYERS} and {MOST_WIDTH}"
    return ""


def _packed(tensors: list[Tensor], width: int) -> Tensor:
    """Every layer in a square (or row) of `width`, `[M, L, width(, width)]` in float32."""
    shape = (len(tensors[0]), len(tensors), *[width] * (tensors[0].ndim - 1))
    packed = torch.zeros(shape, dtype=torch.float32, device=tensors[0].device)
    for layer, tensor in enumerate(tensors):
        packed[:, layer][tuple(slice(0, n) for n in tensor.shape)] = tensor
    return packed


def _unpack(packed: Tensor, tensors: list[Tensor]) -> None:
    for layer, tensor in enumerate(tensors):
        tensor.copy_(packed[:, layer][tuple(slice(0, n) for n in tensor.shape)])


def train(
    weights: list[Tensor], biases: list[Tensor], first: list[Tensor], second: list[Tensor], inputs: Tensor, targets: Tensor,
    learning_rate: Tensor, weight_decay: Tensor, rows: Tensor | None, steps: int, activation: str, frequency: float, start: int,
) -> Tensor:  # fmt: skip
    """See `mlp_population_train`."""
    layers, width = len(weights), max(16, triton.next_power_of_2(max(max(w.shape[1:]) for w in weights)))
    groups = (weights, biases, first[:layers], second[:layers], first[layers:], second[layers:])
    packed = [_packed(tensors, width) for tensors in groups]
    models, samples, outputs = len(learning_rate), inputs.shape[1], biases[-1].shape[1]
    before = torch.zeros(models, layers, TILE, width, dtype=torch.float32, device=targets.device)
    losses = torch.empty(models, steps, dtype=torch.float32, device=targets.device)
    strides = [0 if len(x) == 1 else x[0].numel() for x in (inputs, targets)]
    batch = samples if rows is None else rows.shape[2]
    betas = torch.tensor([0.9, 0.999], dtype=torch.float64)
    _train_kernel[(models,)](
        *packed, torch.empty_like(packed[0]), torch.empty_like(packed[1]), before, inputs.contiguous(), targets.contiguous(),
        None if rows is None else rows.contiguous(), learning_rate, weight_decay, losses, layers, samples, inputs.shape[2], outputs,
        steps, start, batch, *strides, frequency,
        *betas.tolist(), *betas.log().tolist(), 1e-8,
        ACTIVATION=CODES[activation], WIDTH=width, TILE=TILE, LABELS=not targets.is_floating_point(), ROWS=rows is not None,
        num_warps=_warps(width), num_stages=STAGES,
    )  # fmt: skip
    for group, tensors in zip(packed, groups, strict=True):
        _unpack(group, tensors)
    return losses.to(inputs.dtype)


_EXACT = [name for name in _train_kernel.arg_names if name.startswith("p_")]
_INTEGERS = ("layers", "samples", "features", "outputs", "steps", "start", "batch", "x_stride", "y_stride")
_REALS = ("frequency", "beta1", "beta2", "log_beta1", "log_beta2", "epsilon")
CONFIGURATIONS = [
    Configuration(
        _train_kernel,
        {**dict.fromkeys(_EXACT, "fp32"), "p_y": "i64" if classes else "fp32", "p_rows": "i64" if classes else None},
        {"ACTIVATION": code, "WIDTH": width, "TILE": TILE, "LABELS": classes, "ROWS": classes},
        {**dict.fromkeys(_INTEGERS, "i32"), **dict.fromkeys(_REALS, "fp32")}, _warps(width), STAGES,
    )
    for code, width, classes in ((2, 32, False), (0, 16, False), (1, 64, True), (3, 64, False), (0, 64, True))
]  # fmt: skip
