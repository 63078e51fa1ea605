"""Small modules of every kind of wiring that the golden tests of `graphs` name; plain torch, one forward pass each."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.families.feedforward.mlp_mixer import MixerBlock


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU, bias: bool = True) -> nn.Sequential:
    """A fully connected network."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after, bias), activation()]
    return nn.Sequential(*layers[:-1])


class Sum(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def residual_mlp(width: int = 6, hidden: int = 5, blocks: int = 2, ends: tuple[int, int] = (3, 2)) -> nn.Sequential:
    """Residual blocks between two linear maps."""
    return nn.Sequential(
        nn.Linear(ends[0], width),
        *(Sum(mlp(width, hidden, width)) for _ in range(blocks)),
        nn.Linear(width, ends[1]),
    )


def mixer() -> nn.Sequential:
    """One layer that mixes two tokens and then three channels, between linear maps."""
    return nn.Sequential(nn.Linear(4, 3), MixerBlock(2, 3, 3, 3), nn.LayerNorm(3), nn.Linear(3, 4))


class Dense(nn.Module):
    """Every layer reads all earlier ones, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 4), nn.Linear(7, 5), nn.Linear(12, 2)])

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers[:-1]:
            seen.append(torch.relu(layer(torch.cat(seen, -1))))
        return self.layers[-1](torch.cat(seen, -1))


class Both(nn.Module):
    """The same hidden units concatenated twice, one copy squared: they must move together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.cat([h, h * h], -1))


def cnn() -> nn.Sequential:
    """Convolutions with batch norm, flattened into a linear map."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(24, 3),
    )  # fmt: skip


def separable_cnn() -> nn.Sequential:
    """Depthwise-separable convolutions."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip


def grouped_cnn(norm: nn.Module | None = None) -> nn.Sequential:
    """Two groups of four channels between dense convolutions, optionally with a norm in between."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), norm or nn.Identity(), nn.ReLU(),
        nn.Conv2d(8, 3, 1),
    )  # fmt: skip


class FixedGroups(nn.Module):
    """A grouped convolution whose two groups are told apart afterwards (one is squared): no swap."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grouped = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3, groups=2)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.grouped(torch.relu(self.first(x))).chunk(2, 1)
        return self.last(torch.cat([torch.relu(left), right * right], 1))


def group_norm_cnn() -> nn.Sequential:
    """Group normalization over two blocks of three channels."""
    return nn.Sequential(nn.Conv1d(2, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Conv1d(6, 3, 1))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of an image, as ConvNeXt does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(2, 5, 3), nn.LayerNorm(5), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))


def autoencoder() -> nn.Sequential:
    """Strided convolution and its transpose."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.ConvTranspose2d(4, 5, 3, 2), nn.ReLU(), nn.Conv2d(5, 1, 1)
    )


def pixel_shuffle() -> nn.Sequential:
    """Three channels of four sub-pixels each."""
    return nn.Sequential(nn.Conv2d(1, 12, 3), nn.PixelShuffle(2), nn.ReLU(), nn.Conv2d(3, 2, 1))


class Patches(nn.Module):
    """Patches by view and permute, mixed over tokens and over channels (MLP-Mixer)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 5)
        self.tokens, self.channels = mlp(4, 6, 4), mlp(5, 7, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        patches = x.view(b, 2, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(b, 4, 4)
        h = self.embed(patches)
        h = h + self.tokens(h.transpose(1, 2)).transpose(1, 2)
        return self.head((h + self.channels(h)).mean(1))


class Encoder(nn.Module):
    """A transformer encoder layer between linear maps."""

    def __init__(self, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x)))


class Attention(nn.Module):
    """Packed multi-head self-attention on fixed features."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Decoder(nn.Module):
    """RMSNorm, grouped-query attention with rotary positions off, SwiGLU, and an embedding tied to the head."""

    def __init__(self, width: int = 8, heads: int = 4, keys: int = 2, head: int = 2, hidden: int = 6) -> None:
        super().__init__()
        self.heads, self.keys, self.head = heads, keys, head
        self.embedding = nn.Embedding(11, width)
        self.norm, self.norm2, self.norm3 = (nn.RMSNorm(width, eps=1e-6) for _ in range(3))
        self.query = nn.Linear(width, heads * head, bias=False)
        self.key, self.value = nn.Linear(width, keys * head, bias=False), nn.Linear(width, keys * head, bias=False)
        self.out = nn.Linear(heads * head, width, bias=False)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        x = self.embedding(tokens)
        h = self.norm(x)
        q = self.query(h).view(b, t, self.heads, self.head).transpose(1, 2)
        k = self.key(h).view(b, t, self.keys, self.head).transpose(1, 2)
        v = self.value(h).view(b, t, self.keys, self.head).transpose(1, 2)
        repeat = self.heads // self.keys
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).reshape(b, t, -1))
        h = self.norm2(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.norm3(x) @ self.embedding.weight.T


class Readout(nn.Module):
    """The sequence that a recurrent module returns, through a linear map."""

    def __init__(self, recurrent: nn.Module, width: int) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0])


class LastStates(nn.Module):
    """The last states that a recurrent module returns, stacked over its layers: one of them, or a function of all."""

    def __init__(self, recurrent: nn.Module, width: int, read: Callable[[Tensor], Tensor] = lambda h: h[-1]) -> None:
        super().__init__()
        self.recurrent, self.head, self.read = recurrent, nn.Linear(width, 2), read

    def forward(self, x: Tensor) -> Tensor:
        state = self.recurrent(x)[1]
        return self.head(self.read(state[0] if isinstance(state, tuple) else state))


class ComplexDiagonal(nn.Module):
    """A complex diagonal linear recurrence (LRU): h ← λ h + B x, y = Re(C h)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.radius, self.angle = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))
        self.input = nn.Parameter(torch.randn(width, 3, dtype=torch.complex64))
        self.output = nn.Parameter(torch.randn(2, width, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        decay = torch.exp(torch.complex(-torch.exp(self.radius), self.angle))
        state = torch.zeros(x.shape[0], len(decay), dtype=decay.dtype)
        for t in range(x.shape[1]):
            state = decay * state + x[:, t].to(decay.dtype) @ self.input.T
        return (state @ self.output.T).real


class LowRank(nn.Module):
    """y = U V x."""

    def __init__(self, rank: int = 3) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(torch.randn(5, rank)), nn.Parameter(torch.randn(rank, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.u @ self.v).T


class TensorTrain(nn.Module):
    """A weight `[2·3·2, 2·2·3]` as a tensor train of three cores."""

    def __init__(self) -> None:
        super().__init__()
        self.cores = nn.ParameterList([torch.randn(1, 2, 2, 3), torch.randn(3, 3, 2, 4), torch.randn(4, 2, 3, 1)])

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.einsum("aipb,bjqc,ckrd->ijkpqr", *self.cores).reshape(12, 12)
        return x @ weight.T


class Bilinear(nn.Module):
    """y = W (A x ∘ B x)."""

    def __init__(self, before: int = 3, after: int = 2) -> None:
        super().__init__()
        sizes = ((before, 5), (before, 5), (5, after))
        self.a, self.b, self.w = (nn.Linear(i, o, bias=False) for i, o in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return self.w(self.a(x) * self.b(x))


class Sine(nn.Module):
    """sin(30 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


class DeepSets(nn.Module):
    """ρ(Σ φ(x_i))."""

    def __init__(self) -> None:
        super().__init__()
        self.phi, self.rho = mlp(3, 5, 4), mlp(4, 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).sum(1))


class GraphNetwork(nn.Module):
    """Messages along constant edges, added with `index_add` (GCN) or `scatter_add` (GIN), two layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 1], [1, 2, 3, 0, 0]]))
        self.first, self.second = (nn.Linear(3, 5), nn.Linear(5, 2)) if kind == "gcn" else (mlp(3, 5, 4), mlp(4, 6, 2))
        self.epsilon = nn.Parameter(torch.zeros(1))

    def pass_messages(self, x: Tensor) -> Tensor:
        source, target = self.edges
        messages = x[source]
        if self.kind == "gcn":
            return torch.zeros_like(x).index_add(0, target, messages) + x
        index = target[:, None].expand_as(messages)
        return (1 + self.epsilon) * x + torch.zeros_like(x).scatter_add(0, index, messages)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(self.pass_messages(x)))
        return self.second(self.pass_messages(h))


class FourierOperator(nn.Module):
    """Lift, one spectral convolution with a pointwise bypass, project (FNO)."""

    def __init__(self, before: int = 2, after: int = 1) -> None:
        super().__init__()
        self.lift, self.bypass, self.project = nn.Conv1d(before, 4, 1), nn.Conv1d(4, 5, 1), nn.Conv1d(5, after, 1)
        self.weight = nn.Parameter(torch.randn(4, 5, 3, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        modes = torch.fft.rfft(h)[..., :3]
        low = torch.einsum("bim,iom->bom", modes, self.weight)
        spectrum = torch.cat([low, low.new_zeros(*low.shape[:2], h.shape[-1] // 2 - 2)], -1)
        return self.project(F.gelu(torch.fft.irfft(spectrum, n=h.shape[-1]) + self.bypass(h)))


class NeuralODE(nn.Module):
    """Four classical Runge-Kutta steps of a field on a lifted state."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.field, self.head = nn.Linear(3, 4), mlp(4, 6, 4, activation=nn.Tanh), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h, dt = self.lift(x), 0.25
        for _ in range(4):
            k1 = self.field(h)
            k2 = self.field(h + dt / 2 * k1)
            k3 = self.field(h + dt / 2 * k2)
            k4 = self.field(h + dt * k3)
            h = h + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.head(h)


class TreeCell(nn.Module):
    """One cell for every node of a balanced tree of four leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.cell, self.head = nn.Linear(3, 4), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        nodes = torch.tanh(self.leaf(x))  # [B, 4, 4]
        while nodes.shape[1] > 1:
            nodes = torch.tanh(self.cell(torch.cat([nodes[:, 0::2], nodes[:, 1::2]], -1)))
        return self.head(nodes[:, 0])


class TiedAutoencoder(nn.Module):
    """x ↦ Wᵀ relu(W x + b) + c."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight.T + self.bias) @ self.weight


class TokenMLP(nn.Module):
    """An embedding table summed over tokens, then an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.net = nn.Embedding(7, 4), mlp(4, 5, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(self.table(tokens).mean(1))


class Experts(nn.Module):
    """A soft mixture of three stacked experts and a hard choice of the best: experts move with their gate."""

    def __init__(self, hard: bool = False) -> None:
        super().__init__()
        self.hard = hard
        self.gate = nn.Linear(3, 3)
        self.up, self.down = nn.Parameter(torch.randn(3, 3, 4)), nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).softmax(-1)
        outs = torch.einsum("beh,eho->beo", torch.relu(torch.einsum("bi,eih->beh", x, self.up)), self.down)
        if not self.hard:
            return torch.einsum("be,beo->bo", scores, outs)
        best = scores.argmax(-1)
        return outs.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]
