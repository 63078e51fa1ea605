"""Small modules whose symmetry groups are known by hand."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Subject = Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]
SUBJECTS: dict[str, Subject] = {}


def subject(name: str) -> Callable[[Subject], Subject]:
    """Register a subject."""

    def add(function: Subject) -> Subject:
        SUBJECTS[name] = function
        return function

    return add


def mlp(activation: type[nn.Module]) -> nn.Module:
    """3-8-8-2."""
    return nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2))


for _name, _activation in {"relu": nn.ReLU, "leaky relu": nn.LeakyReLU, "tanh": nn.Tanh, "gelu": nn.GELU}.items():
    SUBJECTS[f"mlp {_name}"] = lambda activation=_activation: (mlp(activation), (torch.randn(6, 3),))  # type: ignore[misc]


@subject("deep linear")
def deep_linear() -> tuple[nn.Module, tuple[Tensor, ...]]:
    """3-4-4-2 without activations."""
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)), (torch.randn(6, 3),)


class LowRank(nn.Module):
    """tanh(U V x + b)."""

    def __init__(self) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ (self.u @ self.v).T + self.bias)


@subject("low rank")
def low_rank() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return LowRank(), (torch.randn(6, 4),)


class Bilinear(nn.Module):
    """O (W x ⊙ V x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.o = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.w(x) * self.v(x))


@subject("bilinear")
def bilinear() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Bilinear(), (torch.randn(6, 3),)


class Siren(nn.Module):
    """Two sine layers with ω = 30."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sin(30 * self.first(x))
        return self.last(torch.sin(30 * self.second(x)))


@subject("siren")
def siren() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return Siren(), (torch.randn(6, 2),)


class Recurrent(nn.Module):
    """A recurrent net and a readout of its last state."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.readout = net, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.net(x)[0][:, -1])


for _name, _make in {
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True),
    "gru": lambda: nn.GRU(3, 4, batch_first=True),
    "elman relu": lambda: nn.RNN(3, 4, nonlinearity="relu", batch_first=True),
    "elman tanh": lambda: nn.RNN(3, 4, batch_first=True),
}.items():
    SUBJECTS[_name] = lambda make=_make: (Recurrent(make()), (torch.randn(2, 4, 3),))  # type: ignore[misc]


class TensorTrain(nn.Module):
    """⟨x, TT(a, b, c)⟩ with bonds of rank 3 and 2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(*s)) for s in ((4, 3), (3, 4, 2), (2, 4)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nijk,ia,ajb,bk->n", x, self.a, self.b, self.c)


@subject("tensor train")
def tensor_train() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return TensorTrain(), (torch.randn(5, 4, 4, 4),)


class LinearRecurrentUnit(nn.Module):
    """h ← λ h + γ B x, y = Re(C h) + D x with λ = exp(−exp(ν) + i exp(θ)) and γ = exp(log γ)."""

    def __init__(self) -> None:
        super().__init__()
        self.nu, self.theta, self.gamma = (nn.Parameter(torch.rand(5)) for _ in range(3))
        self.b = nn.Parameter(torch.randn(5, 3, dtype=torch.cfloat))
        self.c = nn.Parameter(torch.randn(3, 5, dtype=torch.cfloat))
        self.d = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        decay = torch.exp(torch.complex(-torch.exp(self.nu), torch.exp(self.theta)))
        state = torch.zeros(x.shape[0], 5, dtype=decay.dtype)
        outputs = []
        for step in x.unbind(1):
            state = decay * state + torch.exp(self.gamma) * (step.to(decay.dtype) @ self.b.T)
            outputs.append((state @ self.c.T).real + self.d * step)
        return torch.stack(outputs, 1)


@subject("recurrent unit")
def linear_recurrent_unit() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return LinearRecurrentUnit(), (torch.randn(2, 4, 3),)


def encoder_layer(width: int, heads: int, hidden: int, activation: str = "relu") -> nn.TransformerEncoderLayer:
    """The layer of `torch.nn`, without dropout."""
    return nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.0, activation=activation, batch_first=True)


for _activation_name in ("relu", "gelu"):
    SUBJECTS["transformer" if _activation_name == "relu" else "transformer gelu"] = (
        lambda activation=_activation_name: (encoder_layer(16, 4, 32, activation), (torch.randn(2, 5, 16),))  # type: ignore[misc]
    )
