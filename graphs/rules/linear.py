"""Matrix products and convolutions: contractions of labelled dimensions."""

from graphs.algebra import Labels
from graphs.labels import Walk
from graphs.program import Op, Reference
from graphs.rules import rule


@rule("aten.mm", "aten.mv", "aten.bmm", "aten.dot", "aten.vdot")
def product(walk: Walk, op: Op) -> Labels:
    """Matrix product: the inner dimensions are tied and summed over."""
    left, right = walk.labels(op.arguments[0]), walk.labels(op.arguments[1])
    specs = {
        "aten.mm": ("ik", "kj", "ij"),
        "aten.mv": ("ik", "k", "i"),
        "aten.bmm": ("bik", "bkj", "bij"),
        "aten.dot": ("k", "k", ""),
        "aten.vdot": ("k", "k", ""),
    }
    a, b, out = specs[op.name]
    return walk.algebra.contract([(left, a), (right, b)], out)


@rule("aten.addmm", "aten.baddbmm", "aten.addmv")
def product_with_bias(walk: Walk, op: Op) -> Labels:
    """Matrix product plus a broadcast bias."""
    bias, left, right = (walk.labels(op.arguments[k]) for k in range(3))
    a, b, out = {
        "aten.addmm": ("ik", "kj", "ij"),
        "aten.baddbmm": ("bik", "bkj", "bij"),
        "aten.addmv": ("ik", "k", "i"),
    }[op.name]
    made = walk.algebra.contract([(left, a), (right, b)], out)
    return walk.algebra.contract([(made, out), (bias, out[len(out) - len(bias) :])], out)


@rule("aten.linear")
def linear(walk: Walk, op: Op) -> Labels:
    """x Wᵀ + b."""
    x, weight = walk.labels(op.arguments[0]), walk.labels(op.arguments[1])
    lead = "abcdefghij"[: len(x) - 1]
    made = walk.algebra.contract([(x, lead + "k"), (weight, "ok")], lead + "o")
    bias = op.argument(2, "bias")
    if bias is None:
        return made
    return walk.algebra.contract([(made, lead + "o"), (walk.labels(bias), "o")], lead + "o")


@rule("aten._cdist_forward")
def distances(walk: Walk, op: Op) -> Labels:
    """Pairwise distances: the feature dimensions are tied and summed over."""
    left, right = walk.labels(op.arguments[0]), walk.labels(op.arguments[1])
    lead = "abcdefgh"[: len(left) - 2]
    return walk.algebra.contract([(left, lead + "ik"), (right, lead + "jk")], lead + "ij")


@rule("aten._trilinear")
def trilinear(walk: Walk, op: Op) -> Labels:
    """Σ of a product of three expanded tensors."""
    operands = []
    expands, summed = op.arguments[3:6], op.arguments[6]
    rank = len(walk.shape(op.arguments[0])) + len(expands[0])
    letters = "abcdefghij"[:rank]
    for k in range(3):
        labels = walk.labels(op.arguments[k])
        operands.append((labels, "".join(c for j, c in enumerate(letters) if j not in expands[k])))
    return walk.algebra.contract(operands, "".join(c for j, c in enumerate(letters) if j not in summed))


@rule("aten.convolution", "aten._convolution")
def convolution(walk: Walk, op: Op) -> Labels:
    """Convolution: channels are contracted within their group; positions and kernel taps are fixed."""
    algebra = walk.algebra
    x, weight, bias = walk.labels(op.arguments[0]), walk.labels(op.arguments[1]), op.arguments[2]
    x_shape, weight_shape = walk.shape(op.arguments[0]), walk.shape(op.arguments[1])
    transposed, groups = bool(op.argument(6, "transposed", False)), int(op.argument(8, "groups", 1))
    rank = len(x)
    spatial = list(range(2, rank))
    for axis in spatial:
        algebra.pin(x[axis], axis, "position")
        algebra.pin(weight[axis], axis, "kernel tap")
    x = algebra.reduce(x, spatial, keep=False)
    weight = algebra.reduce(weight, spatial, keep=False)
    if transposed:  # weight [in, out / groups]
        made = _grouped(walk, x, x_shape, weight, weight_shape, groups, "gco", out_group_first=False)
    else:  # weight [out, in / groups]
        made = _grouped(walk, x, x_shape, weight, weight_shape, groups, "goc", out_group_first=True)
    if isinstance(bias, Reference):
        made = algebra.contract([(made, "no"), (walk.labels(bias), "o")], "no")
    sizes = walk.out_shape(op)
    grown = [None if array is None else array.reshape(array.shape + (1,) * len(spatial)) for array in made]
    return (*grown, *(algebra.positions(sizes[axis], axis, rank, "position") for axis in spatial))


def _grouped(
    walk: Walk, x: Labels, x_shape: tuple[int, ...], weight: Labels, weight_shape: tuple[int, ...], groups: int,
    spec: str, out_group_first: bool,
) -> Labels:  # fmt: skip
    """Contract channels: `x [n, g c]` with a weight whose first dimension is split into groups."""
    algebra, batch, channels = walk.algebra, x_shape[0], x_shape[1]
    rows, columns = weight_shape[:2]
    if groups == 1:
        letters = "oc" if out_group_first else "co"
        return algebra.contract([(x, "nc"), (weight, letters)], "no")
    x = algebra.reshape(x, (batch, channels), (batch, groups, channels // groups))
    weight = algebra.reshape(weight, (rows, columns), (groups, rows // groups, columns))
    made = algebra.contract([(x, "ngc"), (weight, spec)], "ngo")
    outs = rows // groups if out_group_first else columns
    return algebra.reshape(made, (batch, groups, outs), (batch, groups * outs))
