"""scikit-learn's bundled handwritten digits, 1,797 images of 8×8 pixels."""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy, mean_squared_error, psnr
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


def load_sequence() -> TaskData:
    """The same split, an image read row by row: `[sample, time 8, channels 8]`."""
    data = load()
    return TaskData(
        Split((data.train.inputs[0].squeeze(1),), data.train.targets),
        Split((data.test.inputs[0].squeeze(1),), data.test.targets),
    )


def pixel_grid(height: int, width: int) -> torch.Tensor:
    """Pixel centres as coordinates (row, column) in [-1, 1], `[height · width, 2]`."""
    rows, columns = (torch.linspace(-1, 1, size) for size in (height, width))
    return torch.cartesian_prod(rows, columns)


def image_regression(images: torch.Tensor, labels: torch.Tensor, names: tuple[str, ...]) -> TaskData:
    """One implicit representation an image: coordinates in, grey value out; images `[image, 1, height, width]`."""
    pixels = images.flatten(1).unsqueeze(-1)  # [image, pixel, 1]
    split = Split((pixel_grid(*images.shape[-2:]),), pixels)
    return TaskData(split, split, instance_labels=labels, instance_names=names)


def psnr_of_mean(data: TaskData) -> float:
    """PSNR, averaged over images, of painting each image in its own mean grey."""
    pixels = data.test.targets
    error = (pixels - pixels.mean((1, 2), keepdim=True)).square().mean((1, 2))
    return float(-10 * torch.log10(error).mean())


DIGITS = tuple("0123456789")

SEQUENCE = register(
    Task(
        name="digits_sequence",
        summary="Which digit is it, read row by row?",
        source=SOURCE,
        inputs=Spec("sequence", (8, 8)),
        targets=Spec("classes", (), 10),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the most frequent digit",
        load=load_sequence,
        baseline_score=majority_accuracy,
    )
)

REPRESENTATION = register(
    Task(
        name="digits_inr",
        summary="Represent one 8×8 digit as a function of the pixel's position.",
        source=SOURCE,
        inputs=Spec("coordinates", (2,)),
        targets=Spec("vector", (1,)),
        loss=mean_squared_error,
        metric="psnr",
        score=psnr,
        higher_is_better=True,
        baseline="the image's mean grey value",
        load=lambda: image_regression(*images(), DIGITS),
        baseline_score=psnr_of_mean,
        sampling="full",
        instances=1797,
    )
)
