"""MNIST, 70,000 handwritten digits of 28×28 pixels: classification, and one implicit representation an image."""

import torch
from torch.nn import functional as F

from modelzoo.idx import IdxImages
from modelzoo.metrics import accuracy, majority_accuracy, mean_squared_error, psnr
from modelzoo.task import Spec, Split, Task, TaskData, register
from modelzoo.tasks.digits import DIGITS, image_regression, psnr_of_mean

SOURCE = "MNIST (LeCun, Cortes and Burges), from the local data folder or a public mirror"

IMAGES = IdxImages(
    title="MNIST",
    folders=("mnist", "MNIST/raw"),
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    checksums={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)


def classification(images: IdxImages) -> TaskData:
    """The published split."""
    x, y, x_test, y_test = images.load()
    return TaskData(Split((x,), y), Split((x_test,), y_test))


def representation(images: IdxImages, names: tuple[str, ...]) -> TaskData:
    """One instance an image: the training images, then the test images."""
    x, y, x_test, y_test = images.load()
    return image_regression(torch.cat([x, x_test]), torch.cat([y, y_test]), names)


TASK = register(
    Task(
        name="mnist",
        summary="Which digit is on a 28×28 image?",
        source=SOURCE,
        inputs=Spec("image", (1, 28, 28)),
        targets=Spec("classes", (), 10),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the most frequent digit",
        load=lambda: classification(IMAGES),
        baseline_score=majority_accuracy,
        offline=False,
    )
)

REPRESENTATION = register(
    Task(
        name="mnist_inr",
        summary="Represent one 28×28 digit as a function of the pixel's position.",
        source=SOURCE,
        inputs=Spec("coordinates", (2,)),
        targets=Spec("vector", (1,)),
        loss=mean_squared_error,
        metric="psnr",
        score=psnr,
        higher_is_better=True,
        baseline="the image's mean grey value",
        load=lambda: representation(IMAGES, DIGITS),
        baseline_score=psnr_of_mean,
        sampling="full",
        instances=70_000,
        offline=False,
    )
)
