"""PointNet: a function of the set of points."""

import torch

from modelzoo.families.geometric.pointnet import PointNet, PointNetConfig
from modelzoo.task import task


def test_the_order_and_repetition_of_points_do_not_matter() -> None:
    torch.manual_seed(0)
    (points,) = task("solids").example_inputs(4)
    model = PointNet(PointNetConfig())
    outputs = model(points)
    torch.testing.assert_close(model(points[:, torch.randperm(points.shape[1])]), outputs)
    torch.testing.assert_close(model(torch.cat([points, points[:, :5]], 1)), outputs)


def test_the_points_matter() -> None:
    torch.manual_seed(1)
    (points,) = task("solids").example_inputs(4)
    model = PointNet(PointNetConfig())
    assert (model(points) - model(points * torch.tensor([1.0, 1.0, 3.0]))).abs().max() > 1e-2
