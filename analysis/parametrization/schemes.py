"""abc-parametrizations: the exponents of width in multiplier, initialisation and learning rate of every tensor.

W = n^{-a} w with w ~ N(0, n^{-2b}) and learning rate η n^{-c}, one triple for input tensors (only the dimension they
produce grows), hidden tensors (both grow) and output tensors (only the dimension they sum over grows). "Feature
Learning in Infinite-Width Neural Networks" (Yang and Hu, 2021; row S103) for SGD; "Tensor Programs IVb: Adaptive
Optimization in the Infinite-Width Limit" (Yang and Littwin, 2023; row S030) for Adam, whose updates are entrywise and
do not shrink with the gradient. Residual branches may besides be scaled with depth: "Tensor Programs VI: Feature
Learning in Infinite-Depth Neural Networks" (Yang, Yu, Zhu and Hayou, 2023; row S071).
"""

from dataclasses import dataclass, replace
from typing import Literal

from modelzoo.errors import UnknownNameError, UserError

ROW = "S103"

Optimizer = Literal["sgd", "adam"]
Role = Literal["input", "hidden", "output", "finite"]


@dataclass(frozen=True)
class Exponents:
    """How one kind of tensor goes with width n.

    Args:
        a: multiplier n^{-a}.
        b: initial standard deviation n^{-b}.
        c: learning rate n^{-c}.
    """

    a: float
    b: float
    c: float

    def folded(self, optimizer: Optimizer) -> tuple[float, float]:
        """(Exponent of the initial standard deviation, exponent of the learning rate) of the weight with its multiplier.

        A multiplier n^{-a} scales the gradient of w by n^{-a} and its update by n^{-a}: training the product W with
        initialisation n^{-(a+b)} and learning rate n^{-(c+2a)}, or n^{-(c+a)} for Adam, is the same.
        """
        return self.a + self.b, self.c + (2 if optimizer == "sgd" else 1) * self.a


@dataclass(frozen=True)
class Scheme:
    """A parametrization.

    Args:
        name: the field's name for it.
        optimizer: whose updates the learning rates are made for.
        input, hidden, output: exponents by role; a scheme without `hidden` is for one hidden layer.
        branch: exponent of depth L in the multiplier L^{-branch} of every residual branch, None for no depth scaling.
    """

    name: str
    optimizer: Optimizer
    input: Exponents
    hidden: Exponents | None
    output: Exponents
    branch: float | None = None

    def __getitem__(self, role: Role) -> Exponents:
        """The exponents of a role; a finite tensor has none that matter.

        Raises:
            UserError: the scheme has none for hidden tensors.
        """
        if role == "finite":
            return Exponents(0, 0, 0)
        found = {"input": self.input, "hidden": self.hidden, "output": self.output}[role]
        if found is None:
            raise UserError(
                f"parametrization {self.name!r} is defined for one hidden layer, and this module has tensors between "
                f"hidden layers; take 'mup', which extends it."
            )
        return found

    @property
    def present(self) -> tuple[tuple[bool, Exponents], ...]:
        """(Whether it sums over a growing dimension, exponents) of the tensors below the output."""
        return ((False, self.input), *(((True, self.hidden),) if self.hidden else ()))

    @property
    def branch_rate(self) -> float:
        """Exponent of depth in the learning rate inside branches: the one at which a branch moves the output by 1/L."""
        if self.branch is None:
            return 0.0
        return 1 - (2 if self.optimizer == "sgd" else 1) * self.branch

    @property
    def gradient_exponent(self) -> float:
        """d: the gradient in a hidden activation is Θ(n^{-d}), as the output weights are: min(a + b, 2a + c) of the output."""
        start, rate = self.output.folded(self.optimizer)
        return min(start, rate)

    @property
    def feature_exponent(self) -> float:
        """r: after a few steps hidden activations have moved by Θ(n^{-r}).

        SGD: r = d + min_l (2a_l + c_l − [l > 1]); Adam: r = min_l (a_l + c_l − [l > 1]).
        """
        if self.optimizer == "adam":
            return min(e.a + e.c - wide for wide, e in self.present)
        return self.gradient_exponent + min(2 * e.a + e.c - wide for wide, e in self.present)

    @property
    def stable(self) -> bool:
        """Whether neither activations nor outputs blow up or vanish, at initialisation and in training."""
        r, out = self.feature_exponent, self.output
        starts = all(e.a + e.b == (0.5 if wide else 0) for wide, e in self.present) and out.a + out.b >= 0.5
        return starts and r >= 0 and out.folded(self.optimizer)[1] >= 1 and out.a + out.b + r >= 1

    @property
    def learns_features(self) -> bool:
        """Whether it is stable and activations move by a constant in the limit; a stable one else has a kernel limit."""
        return self.stable and self.feature_exponent == 0

    def shift(self, theta: float) -> "Scheme":
        """The same training with a^l + θ: b − θ and c − 2θ (SGD) or c − θ (Adam)."""
        factor = 2 if self.optimizer == "sgd" else 1

        def moved(e: Exponents) -> Exponents:
            return Exponents(e.a + theta, e.b - theta, e.c - factor * theta)

        return replace(self, input=moved(self.input), hidden=self.hidden and moved(self.hidden), output=moved(self.output))  # fmt: skip

    def slower(self, c: float) -> "Scheme":
        """The same with all learning rates divided by n^c."""

        def moved(e: Exponents) -> Exponents:
            return replace(e, c=e.c + c)

        return replace(self, input=moved(self.input), hidden=self.hidden and moved(self.hidden), output=moved(self.output))  # fmt: skip


def _schemes() -> tuple[Scheme, ...]:
    e = Exponents
    mup = Scheme("mup", "sgd", e(-0.5, 0.5, 0), e(0, 0.5, 0), e(0.5, 0.5, 0))
    adam = Scheme("mup", "adam", e(0, 0, 0), e(0, 0.5, 1), e(1, 0, 0))
    return (
        Scheme("standard", "sgd", e(0, 0, 0), e(0, 0.5, 0), e(0, 0.5, 0)),
        Scheme("ntp", "sgd", e(0, 0, 0), e(0.5, 0, 0), e(0.5, 0, 0)),
        Scheme("mean_field", "sgd", e(0, 0, -1), None, e(1, 0, -1)),
        mup,
        replace(mup, name="depth_mup", branch=0.5),
        Scheme("standard", "adam", e(0, 0, 0), e(0, 0.5, 0), e(0, 0.5, 0)),
        Scheme("ntp", "adam", e(0, 0, 0.5), e(0.5, 0, 1), e(0.5, 0, 0.5)),
        Scheme("mean_field", "adam", e(0, 0, 0), None, e(1, 0, 0)),
        adam,
        replace(adam, name="depth_mup", branch=0.5),
    )


SCHEMES = {(found.name, found.optimizer): found for found in _schemes()}
NAMES = tuple(dict.fromkeys(name for name, _ in SCHEMES))


def scheme(name: str, optimizer: str = "adam") -> Scheme:
    """The parametrization of that name for an optimizer.

    Args:
        name: `standard`, `ntp` (neural tangent), `mean_field`, `mup` (maximal update) or `depth_mup`.
        optimizer: `sgd` or `adam`.

    Raises:
        UserError: there is none of that name.
    """
    if name not in NAMES:
        raise UnknownNameError("parametrization", name, NAMES)
    if (name, optimizer) not in SCHEMES:
        raise UnknownNameError("optimizer", optimizer, ("adam", "sgd"))
    return next(found for (own, update), found in SCHEMES.items() if (own, update) == (name, optimizer))
