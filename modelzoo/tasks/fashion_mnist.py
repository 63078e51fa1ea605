"""Fashion-MNIST, 70,000 articles of clothing of 28×28 pixels: classification, and one implicit representation an image."""

from torch.nn import functional as F

from modelzoo.idx import IdxImages
from modelzoo.metrics import accuracy, majority_accuracy, mean_squared_error, psnr
from modelzoo.task import Spec, Task, register
from modelzoo.tasks.digits import psnr_of_mean
from modelzoo.tasks.mnist import classification, representation

SOURCE = (
    "Fashion-MNIST (Xiao, Rasul and Vollgraf, MIT), from the local data folder, Debian's package or a public mirror"
)

IMAGES = IdxImages(
    title="Fashion-MNIST",
    folders=("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    checksums={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)

ARTICLES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip

TASK = register(
    Task(
        name="fashion_mnist",
        summary="Which article of clothing is on a 28×28 image?",
        source=SOURCE,
        inputs=Spec("image", (1, 28, 28)),
        targets=Spec("classes", (), 10),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the most frequent article",
        load=lambda: classification(IMAGES),
        baseline_score=majority_accuracy,
        offline=False,
    )
)

REPRESENTATION = register(
    Task(
        name="fashion_mnist_inr",
        summary="Represent one 28×28 article of clothing as a function of the pixel's position.",
        source=SOURCE,
        inputs=Spec("coordinates", (2,)),
        targets=Spec("vector", (1,)),
        loss=mean_squared_error,
        metric="psnr",
        score=psnr,
        higher_is_better=True,
        baseline="the image's mean grey value",
        load=lambda: representation(IMAGES, ARTICLES),
        baseline_score=psnr_of_mean,
        sampling="full",
        instances=70_000,
        offline=False,
    )
)
