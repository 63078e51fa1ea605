"""A language of topics and n-grams: sentences of one topic each, whose next word depends on the last two.

Made for looking into language models: every window has a known topic, every next word a known distribution.
"""

from functools import partial

import torch
from torch import Tensor

from modelzoo.metrics import bits_per_character
from modelzoo.task import Spec, Split, Task, TaskData, register
from modelzoo.tasks.characters import cross_entropy, unigram

TOPICS = 4
SHARED, OWN = 16, 12  # words of all topics, and of each topic alone
VOCABULARY = SHARED + TOPICS * OWN
LENGTH = 48
TRAIN, TEST = 2000, 256
SUCCESSORS = (0.7, 0.2, 0.1)  # probabilities of the three words that can follow a pair


def successors(generator: torch.Generator) -> Tensor:
    """Words that can follow each pair, `[topic, class of the word before last, last word, 3]`.

    The word before last counts by its remainder modulo 4, so that the table can be learned from few sentences. A topic's
    sentence goes through its own words and the shared ones.
    """
    found = torch.empty(TOPICS, 4, VOCABULARY, len(SUCCESSORS), dtype=torch.long)
    for topic in range(TOPICS):
        words = words_of(topic)
        for before in range(4):
            for last in range(VOCABULARY):
                found[topic, before, last] = words[torch.randperm(len(words), generator=generator)[: len(SUCCESSORS)]]
    return found


def words_of(topic: int) -> Tensor:
    """The words that sentences of a topic use."""
    return torch.cat([torch.arange(SHARED), SHARED + OWN * topic + torch.arange(OWN)])


def sentences(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random sentences `[count, LENGTH + 1]` of the one language, and their topics `[count]`."""
    table = successors(torch.Generator().manual_seed(0))
    topics = torch.arange(count) % TOPICS
    words = torch.stack([words_of(topic) for topic in range(TOPICS)])[topics]  # [count, SHARED + OWN]
    text = words.gather(1, torch.randint(words.shape[1], (count, 2), generator=generator))
    weights = torch.tensor(SUCCESSORS)
    for _ in range(LENGTH - 1):
        choice = torch.multinomial(weights.expand(count, -1), 1, generator=generator)
        following = table[topics, text[:, -2] % 4, text[:, -1]].gather(1, choice)
        text = torch.cat([text, following], 1)
    return text, topics


def split(count: int, seed: int) -> Split:
    """Sentences without their last word, and without their first."""
    text, _ = sentences(count, torch.Generator().manual_seed(seed))
    return Split((text[:, :-1],), text[:, 1:])


TASK = register(
    Task(
        name="topic_ngrams",
        summary="Which word comes next in a sentence of one of four topics?",
        source="a random second-order grammar for each topic, made from a fixed seed",
        inputs=Spec("tokens", (LENGTH,), VOCABULARY),
        targets=Spec("tokens", (LENGTH,), VOCABULARY),
        loss=cross_entropy,
        metric="bits_per_word",
        score=bits_per_character,
        higher_is_better=False,
        baseline="the frequency of each word in the training text",
        load=lambda: TaskData(split(TRAIN, 1), split(TEST, 2)),
        baseline_score=partial(unigram, vocabulary=VOCABULARY),
    )
)
