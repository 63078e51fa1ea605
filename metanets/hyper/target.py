"""What a hypernetwork generates: the parameters of a target, for a problem."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from modelzoo.errors import UserError
from modelzoo.family import Family, FamilyConfig
from modelzoo.task import Task

Parameters = dict[str, Tensor]


class Target:
    """A network whose parameters come from outside; its module is put into evaluation mode and keeps its buffers.

    Args:
        module: any module; its own parameters are the usual initialisation.
        vmappable: whether many targets can be evaluated by one vmapped call.
        member: the family and config it is a member of, if any.
    """

    def __init__(
        self, module: nn.Module, vmappable: bool = True, member: tuple[Family, FamilyConfig] | None = None
    ) -> None:
        self.member = member
        self.module = module.eval().requires_grad_(False)
        self.vmappable = vmappable
        self.shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}

    @classmethod
    def of(cls, family: Family, config: FamilyConfig, seed: int = 0) -> "Target":
        """A member of a family."""
        return cls(family.build(config, seed), family.not_vmappable is None, (family, config))

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(map(prod, self.shapes.values()))

    def initial(self) -> Parameters:
        """Copies of the module's own parameters."""
        return {name: parameter.clone() for name, parameter in self.module.named_parameters()}

    def __call__(self, parameters: Parameters, *inputs: Tensor) -> Tensor:
        """Outputs of one target."""
        return torch.func.functional_call(self.module, parameters, inputs)

    def map(self, parameters: Parameters, *inputs: Tensor, own: bool = False) -> Tensor:
        """Outputs of M targets, `[M, *outputs]`.

        Args:
            parameters: `{name: [M, *shape]}`.
            inputs: the same for all targets, or with a leading axis `[M, …]` if they are their `own`.
            own: whether every target has its own inputs.
        """
        if self.vmappable:
            return torch.func.vmap(self, in_dims=(0, *[0 if own else None] * len(inputs)))(parameters, *inputs)
        models = len(next(iter(parameters.values())))
        each = (
            self({name: value[i] for name, value in parameters.items()}, *(x[i] if own else x for x in inputs))
            for i in range(models)
        )
        return torch.stack(list(each))

    def split(self, flat: Tensor) -> Parameters:
        """A flat vector `[*, size]` as named parameters `[*, *shape]`."""
        parts = flat.split([prod(shape) for shape in self.shapes.values()], -1)
        return {
            name: part.reshape(*flat.shape[:-1], *shape)
            for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }

    def join(self, parameters: Parameters) -> Tensor:
        """The inverse of `split`."""
        lead = next(iter(parameters.values())).ndim - len(next(iter(self.shapes.values())))
        return torch.cat([parameters[name].flatten(lead) if shape else parameters[name].unsqueeze(-1)
                          for name, shape in self.shapes.items()], -1)  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A family at a config, and the task its generated members are for.

    Args:
        family: of the targets.
        config: of the target.
        task: without instances.
    """

    family: Family
    config: FamilyConfig
    task: Task

    def __post_init__(self) -> None:
        if self.task.instances:
            raise UserError(
                f"task {self.task.name!r} gives every model its own instance; choose a task that all models share.", 2
            )

    def target(self, seed: int = 0) -> Target:
        """A target with the initialisation of this seed."""
        return Target.of(self.family, self.config, seed)

    def batch(self, generator: torch.Generator, size: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Random training inputs and targets (all of them where the task is not sampled)."""
        train = self.task.data().train
        if self.task.sampling == "full":
            return train.inputs, train.targets
        rows = torch.randint(len(train.targets), (size,), generator=generator)
        return tuple(x[rows] for x in train.inputs), train.targets[rows]

    def losses(self, target: Target, parameters: Parameters, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """The task's loss of every model on the same data, `[M]`."""
        mask = self.task.data().train.mask
        outputs = target.map(parameters, *inputs)
        if mask is not None:
            outputs, targets = outputs[:, mask], targets[mask]
        return torch.func.vmap(self.task.loss, in_dims=(0, None))(outputs, targets)

    @torch.no_grad()
    def test(self, target: Target, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Test loss and test metric of every model, `[M]` each."""
        split = self.task.data().test
        outputs, targets = target.map(parameters, *split.inputs), split.targets
        if split.mask is not None:
            outputs, targets = outputs[:, split.mask], targets[split.mask]
        both = ((self.task.loss(own, targets), self.task.score(own, targets)) for own in outputs)
        losses, scores = zip(*both, strict=True)
        return torch.stack(losses), torch.stack(scores)

    def scores(self, target: Target, parameters: Parameters) -> Tensor:
        """The task's metric of every model on the test split, `[M]`."""
        return self.test(target, parameters)[1]
