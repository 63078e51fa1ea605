"""Fused attention operators, where the decompositions leave them whole."""

from graphs.algebra import Labels
from graphs.labels import Walk
from graphs.program import Op, Reference
from graphs.rules import rule


@rule(
    "aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention", "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_attention_math", "aten._scaled_dot_product_cudnn_attention",
)  # fmt: skip
def attention(walk: Walk, op: Op) -> list[Labels | None]:
    """softmax(Q Kᵀ + mask) V per head: QK features are tied and summed over, V features carried."""
    algebra = walk.algebra
    query, key, value = (walk.labels(op.arguments[k]) for k in range(3))
    lead = "abcdefgh"[: len(query) - 2]
    operands = [(query, lead + "tk"), (key, lead + "sk")]
    masks = [entry for entry in (*op.arguments[3:], op.keywords.get("attn_mask")) if isinstance(entry, Reference)]
    for mask in masks:
        labels = walk.labels(mask)
        operands.append((labels, (lead + "ts")[len(lead) + 2 - len(labels) :]))
    scores = algebra.contract(operands, lead + "ts")
    weights = algebra.normalize(scores, [len(scores) - 1])
    if any(op.argument(k, name, False) is True for k, name in ((4, "dropout_p"), (4, "is_causal"), (5, "is_causal"))):
        for axis in (len(scores) - 2, len(scores) - 1):
            algebra.pin(weights[axis], axis, "causal order")
    out = algebra.contract([(weights, lead + "ts"), (value, lead + "sv")], lead + "tv")
    rows = algebra.reduce(weights, [len(weights) - 1], keep=False)
    return [out, rows] + [None] * (len(op.outputs) - 2) if len(op.outputs) > 1 else [out]
