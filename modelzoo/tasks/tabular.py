"""Tables that ship with scikit-learn: breast cancer (classification) and diabetes (regression)."""

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor
from torch.nn import functional as F

from modelzoo.metrics import accuracy, majority_accuracy, mean_squared_error, r2, r2_of_mean
from modelzoo.task import Spec, Split, Task, TaskData, register


def standardized(x: Tensor, train: Tensor) -> Tensor:
    """Columns of zero mean and unit variance on the training rows."""
    return (x - x[train].mean(0)) / x[train].std(0)


def shuffled(count: int) -> tuple[Tensor, Tensor]:
    """Training and test rows of a fixed shuffle, four to one."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[: -count // 5], order[-count // 5 :]


def load_cancer() -> TaskData:
    """Standardized measurements of 569 tumours; every fifth is tested."""
    bunch = load_breast_cancer()
    train, test = shuffled(len(bunch.target))
    x, y = standardized(torch.from_numpy(bunch.data), train).float(), torch.from_numpy(bunch.target).long()
    return TaskData(Split((x[train],), y[train]), Split((x[test],), y[test]))


def load_progression() -> TaskData:
    """Standardized measurements of 442 patients and their standardized progression; every fifth is tested."""
    bunch = load_diabetes(scaled=False)
    train, test = shuffled(len(bunch.target))
    x = standardized(torch.from_numpy(bunch.data), train).float()
    y = standardized(torch.from_numpy(bunch.target).unsqueeze(1), train).float()
    return TaskData(Split((x[train],), y[train]), Split((x[test],), y[test]))


BREAST_CANCER = register(
    Task(
        name="breast_cancer",
        summary="Is a tumour malignant or benign, by 30 measurements of its cell nuclei?",
        source="scikit-learn load_breast_cancer (UCI breast cancer Wisconsin diagnostic, BSD package)",
        inputs=Spec("vector", (30,)),
        targets=Spec("classes", (), 2),
        loss=F.cross_entropy,
        metric="accuracy",
        score=accuracy,
        higher_is_better=True,
        baseline="always the more frequent diagnosis",
        load=load_cancer,
        baseline_score=majority_accuracy,
    )
)

DIABETES = register(
    Task(
        name="diabetes",
        summary="How far does diabetes progress in a year, by 10 measurements?",
        source="scikit-learn load_diabetes (Efron, Hastie, Johnstone and Tibshirani, Least Angle Regression; BSD package)",
        inputs=Spec("vector", (10,)),
        targets=Spec("vector", (1,)),
        loss=mean_squared_error,
        metric="r2",
        score=r2,
        higher_is_better=True,
        baseline="always the mean of the training targets",
        load=load_progression,
        baseline_score=r2_of_mean,
    )
)
