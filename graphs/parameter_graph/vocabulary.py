"""The fixed vocabularies of parameter graphs: what nodes and edges can be, and which operators read a parameter.

Metanets embed these numbers, and heterogeneous architectures share them: names are only ever appended.
"""

import torch

from graphs.program import Op

NODE_KINDS = ("input", "hidden", "output", "input_output", "fixed", "constant", "parameter")
EDGE_KINDS = (
    "linear", "convolution", "embedding", "recurrent", "contraction", "bias", "gain", "mean", "variance", "structure",
    "other",
)  # fmt: skip
EDGE_OPS = (
    "none", "matmul", "batched_matmul", "convolution", "embedding", "index", "add", "multiply", "batch_norm",
    "layer_norm", "rms_norm", "group_norm", "softmax", "attention", "distance", "pointwise", "reduction", "shape",
    "other",
)  # fmt: skip
POSITIONS = 3  # pinned coordinates an edge can carry

NODE_KIND = {name: code for code, name in enumerate(NODE_KINDS)}
EDGE_KIND = {name: code for code, name in enumerate(EDGE_KINDS)}
EDGE_OP = {name: code for code, name in enumerate(EDGE_OPS)}

_FAMILY_OF = {
    f"aten.{name}": family
    for family, names in {
        "matmul": "mm addmm mv addmv dot vdot linear",
        "batched_matmul": "bmm baddbmm _trilinear",
        "convolution": "convolution _convolution",
        "embedding": "embedding",
        "index": "index index_select gather _unsafe_index scatter scatter_add index_add index_put",
        "add": "add sub rsub",
        "multiply": "mul div",
        "batch_norm": "_native_batch_norm_legit_no_training _native_batch_norm_legit native_batch_norm "
        "_batch_norm_no_update _batch_norm_with_update",
        "layer_norm": "native_layer_norm layer_norm",
        "rms_norm": "_fused_rms_norm rms_norm",
        "group_norm": "native_group_norm",
        "softmax": "_softmax _log_softmax softmax log_softmax _safe_softmax",
        "attention": "scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu",
        "distance": "_cdist_forward",
        "reduction": "sum mean amax amin max min var std prod linalg_vector_norm var_mean cumsum cumprod logsumexp",
        "pointwise": "polar complex",
        "shape": "view reshape _unsafe_view unsqueeze squeeze flatten permute transpose t expand repeat slice select "
        "split split_with_sizes unbind chunk unsafe_split flip roll cat concat stack clone alias detach _to_copy "
        "constant_pad_nd view_as_real view_as_complex diagonal slice_scatter select_scatter unfold lift_fresh_copy",
    }.items()
    for name in names.split()
}
CONTRACTIONS = {"matmul", "batched_matmul", "convolution", "embedding", "index", "distance"}


def op_family(op: Op) -> str:
    """The name in `EDGE_OPS` of the operators that an op belongs to."""
    if op.name in _FAMILY_OF:
        return _FAMILY_OF[op.name]
    return "pointwise" if torch.Tag.pointwise in getattr(op.overload, "tags", ()) else "other"
