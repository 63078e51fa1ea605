"""A character language model on the English prose that ships with Python: the reference texts behind `help()`."""

import sys
from math import log
from pydoc_data.topics import topics

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.metrics import bits_per_character
from modelzoo.task import Spec, Split, Task, TaskData, register

WINDOW = 32
TEST_WINDOWS = 256
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(ALPHABET) + 1  # token 0 is any other character


def encode(text: str) -> Tensor:
    """Token of every character, `[character]` int64: its place in `ALPHABET` counted from 1, or 0."""
    return torch.tensor([ALPHABET.find(character) + 1 for character in text])


def decode(tokens: Tensor) -> str:
    """The text of some tokens; � for token 0."""
    return "".join(("�" + ALPHABET)[token] for token in tokens.tolist())


def windows(tokens: Tensor) -> Split:
    """Consecutive windows, and the same moved on by one character, `[window, time]` each."""
    count = (len(tokens) - 1) // WINDOW
    inputs, targets = tokens[: count * WINDOW], tokens[1 : count * WINDOW + 1]
    return Split((inputs.view(count, WINDOW),), targets.view(count, WINDOW))


def load() -> TaskData:
    """The topics in alphabetical order: training on the first nine tenths, 256 windows spread over the last tenth."""
    tokens = encode("\n\n".join(topics[name] for name in sorted(topics)))
    cut = len(tokens) * 9 // 10
    test = windows(tokens[cut:])
    rows = torch.linspace(0, len(test.targets) - 1, TEST_WINDOWS).long()
    return TaskData(windows(tokens[:cut]), Split((test.inputs[0][rows],), test.targets[rows]))


def cross_entropy(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean over windows and positions; logits `[window, time, vocabulary]`, tokens `[window, time]`."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


def unigram(data: TaskData, vocabulary: int = VOCABULARY) -> float:
    """Bits per token when every token is guessed by its frequency in the training text, one count added."""
    counts = data.train.targets.flatten().bincount(minlength=vocabulary) + 1.0
    return float(-(counts / counts.sum()).log()[data.test.targets].mean() / log(2))


TASK = register(
    Task(
        name="characters",
        summary="Which character comes next in Python's reference manual?",
        source="pydoc_data.topics of the running Python (PSF licence)",
        inputs=Spec("tokens", (WINDOW,), VOCABULARY),
        targets=Spec("tokens", (WINDOW,), VOCABULARY),
        loss=cross_entropy,
        metric="bits_per_character",
        score=bits_per_character,
        higher_is_better=False,
        baseline="the frequency of each character in the training text",
        load=load,
        baseline_score=unigram,
        notes={
            "text": f"the manual of Python {sys.version_info.major}.{sys.version_info.minor}; other releases differ"
        },
    )
)
