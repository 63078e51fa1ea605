"""The query language: comparisons, nothing that runs code."""

import pandas as pd
import pytest

from modelzoo.errors import UserError
from modelzoo.store.query import select

TABLE = pd.DataFrame({
    "id": range(6), "score": [0.1, 0.5, float("nan"), 0.9, 0.7, 0.2], "split": ["train", "test"] * 3,
    "label": [0, 1, 2, 3, 4, 5], "good": [True, False] * 3,
})  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ("score > 0.4", [1, 3, 4]),
        ("score > 0.4 and split == 'test'", [1, 3]),
        ("not (split == 'test') or label == 5", [0, 2, 4, 5]),
        ("label in [1, 2] or label not in [0, 1, 2, 3, 4]", [1, 2, 5]),
        ("0.1 < score <= 0.5", [1, 5]),
        ("label % 2 == 0 and -label < -1", [2, 4]),
        ("good", [0, 2, 4]),
        ("id >= 99", []),
    ],
)
def test_comparisons(expression: str, ids: list[int]) -> None:
    assert select(TABLE, expression)["id"].tolist() == ids


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("scor > 0.5", "unknown column 'scor'; did you mean 'score'"),
        ("score >", "cannot be read"),
        ("", "cannot be read"),
        ("score = 3", "cannot be read"),
        ("__import__('os').system('true')", "may only compare"),
        ("split.str.len() > 3", "may only compare"),
        ("[x for x in score]", "may only compare"),
        ("score + 1", "does not say yes or no"),
        ("0.5", "does not say yes or no"),
        ("split > 3", "does not fit the columns' types"),
        ("@score > 3", "cannot be read"),
    ],
)
def test_what_is_refused(expression: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        select(TABLE, expression)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
