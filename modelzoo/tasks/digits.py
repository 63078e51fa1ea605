"""scikit-learn's bundled handwritten digits, 1,797 images of 8×8 pixels."""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy
from modelzoo.task import Spec, Split, Task, TaskData, register

SOURCE = "scikit-learn load_digits (UCI optical recognition of handwritten digits, BSD package)"


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """All digits: images `[1797, 1, 8, 8]` scaled to [0, 1] and their labels `[1797]`."""
    bunch = load_digits()
    return torch.from_numpy(bunch.images).float().unsqueeze(1) / 16, torch.from_numpy(bunch.target).long()


def load() -> TaskData:
    """A fixed shuffle; the last 360 images are the test split."""
    x, y = images()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:-360], order[-360:]
    return TaskData(Split((x[train],), y[train]), Split((x[test],), y[test]))


TASK = register(
    Task(
        name="digits",
        summary="Which digit is on an 8×8 image?",
        source=SOURCE,
        inputs=Spec("image", (1, 8, 8)),
        targets=Spec("classes", (), 10),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the most frequent digit",
        load=load,
        baseline_score=majority_accuracy,
    )
)
