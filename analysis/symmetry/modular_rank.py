"""A certificate for the functional dimension of ReLU networks with whole weights: the rank modulo a prime.

At whole weights and inputs the Jacobian of a ReLU network is a matrix of whole numbers, known exactly with the signs of
all pre-activations. Its rank modulo a prime is at most its rank, and that at most the functional dimension: unlike a
rank by singular values the number needs no tolerance, so parameters − rank bounds the dimension of all symmetries at
these weights from above.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelzoo.errors import UserError

PRIME = 2**31 - 1  # products of two residues fit 64 bits
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class Certificate:
    """A certified lower bound of a functional dimension.

    Args:
        parameters: number of scalars.
        rank: modulo the prime.
        points: inputs whose Jacobian was reduced.
        prime: the modulus.
    """

    parameters: int
    rank: int
    points: int
    prime: int

    @property
    def sentence(self) -> str:
        """The bound in one sentence."""
        return f"the functional dimension is at least {self.rank} of {self.parameters} parameters: rank modulo {self.prime} at {self.points} points, exact."


def rank_modulo(matrix: Whole, prime: int = PRIME) -> int:
    """Rank over the integers modulo a prime below 2³¹, by elimination.

    Args:
        matrix: `[rows, columns]`.
        prime: the modulus.
    """
    rest, rank = matrix % prime, 0
    for column in range(rest.shape[1]):
        filled = np.flatnonzero(rest[rank:, column])
        if not len(filled):
            continue
        pivot = rank + int(filled[0])
        rest[[rank, pivot]] = rest[[pivot, rank]]
        lead = rest[rank] * pow(int(rest[rank, column]), -1, prime) % prime
        below = rest[rank + 1 :]
        below -= below[:, column : column + 1] * lead % prime
        below %= prime
        rank += 1
        if rank == len(rest):
            break
    return rank


def whole_jacobian(weights: Sequence[Whole], biases: Sequence[Whole], points: Whole, prime: int = PRIME) -> Whole:
    """∂f_o(x_n)/∂θ modulo a prime of f = W_L relu(… relu(W_1 x + b_1)) + b_L, `[N · O, P]`, weights before biases by layer.

    Args:
        weights: W_l `[out, in]`, whole.
        biases: b_l `[out]`, whole.
        points: x `[N, in]`, whole.
        prime: the modulus.

    Raises:
        UserError: numbers grow past 64 bits, or a pre-activation is exactly 0 (there the network has no derivative).
    """
    bound = int(np.abs(points).max(initial=1))
    entered, patterns, h = [], [], points
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        bound = bound * int(np.abs(weight).sum(1).max(initial=1)) + int(np.abs(bias).max(initial=0))
        if bound >= 2**62:
            raise UserError("whole weights and inputs this large need more than 64 bits; take smaller ones.")
        entered.append(h)
        h = h @ weight.T + bias
        if number < len(weights) - 1:
            if (h == 0).any():
                raise UserError("a pre-activation is exactly 0 at one of the points; take other points.")
            patterns.append(h > 0)
            h = np.maximum(h, 0)
    outputs = len(biases[-1])
    slope = np.broadcast_to(np.eye(outputs, dtype=np.int64), (len(points), outputs, outputs))  # [N, O, out]
    blocks: list[Whole] = []
    for layer in reversed(range(len(weights))):
        own = slope[..., None] * (entered[layer] % prime)[:, None, None] % prime
        blocks = [own.reshape(len(points) * outputs, -1), slope.reshape(len(points) * outputs, -1), *blocks]
        if layer:
            slope = _product(slope, weights[layer] % prime, prime) * patterns[layer - 1][:, None]
    return np.concatenate(blocks, 1)


def _product(left: Whole, right: Whole, prime: int) -> Whole:
    """A product of matrices of residues, one term of the sum at a time so that nothing leaves 64 bits."""
    total = np.zeros((*left.shape[:-1], right.shape[1]), dtype=np.int64)
    for k in range(right.shape[0]):
        total = (total + left[..., k : k + 1] * right[k] % prime) % prime
    return total


def certify(
    weights: Sequence[Whole], biases: Sequence[Whole], points: int = 0, largest: int = 1000, seed: int = 0
) -> Certificate:
    """Certify a lower bound of the functional dimension of a ReLU network at whole weights.

    Args:
        weights: W_l `[out, in]`.
        biases: b_l `[out]`.
        points: random inputs, 0 for 30 a parameter (they spread over four scales up to `largest`).
        largest: of the inputs' entries.
        seed: of the inputs.
    """
    count = sum(w.size for w in weights) + sum(b.size for b in biases)
    points = points or 30 * count
    generator = np.random.default_rng(seed)
    scales = np.resize([largest, largest // 10, largest // 100, max(1, largest // 300)], points)
    x = generator.integers(-scales[:, None], scales[:, None] + 1, (points, weights[0].shape[1]))
    keep = np.ones(points, dtype=bool)
    h = x
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        h = h @ weight.T + bias
        keep &= (h != 0).all(1)
        h = np.maximum(h, 0)
    x = x[keep]
    return Certificate(count, rank_modulo(whole_jacobian(weights, biases, x)), len(x), PRIME)
