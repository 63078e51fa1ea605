"""Writes the archived zoo of the present format version: `python -m tests.modelzoo.store.archive.make`.

Run once per format version; an archive that is committed is never made again, so that old zoos are read for ever.
Beside the zip it writes what a reader must find, as JSON.
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from modelzoo.store import Zoo
from modelzoo.store.zoo import ZOO_ENCODING
from modelzoo.training import PopulationConfig, populate
from tests.modelzoo.store.toys import odd_batch, odd_info

FOLDER = Path(__file__).parent


def summary(zoo: Zoo) -> dict[str, object]:
    """Numbers that pin down a zoo's content: sums of all arrays, whole text columns, the history."""
    arrays: dict[str, object] = {}
    for population in zoo:
        for path in population.paths():
            values = population.array(path)[:]
            if values.dtype.kind in "TUO":
                arrays[f"{population.name}/{path}"] = values.tolist()
            else:
                finite = np.where(np.isfinite(values), values, 0).astype(np.complex128)
                weighted = (finite.ravel() * np.cos(np.arange(finite.size))).sum()
                arrays[f"{population.name}/{path}"] = [
                    list(values.shape),
                    str(values.dtype),
                    weighted.real,
                    weighted.imag,
                ]
    return {"arrays": arrays, "history": [version.message for version in zoo.history()]}


def make(name: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "zoo"
        config = PopulationConfig.read(family="mlp", models=3, block=2, tiny=True, steps=10, checkpoint_every=5,
                                       learning_rate="1e-3:1e-1", family_config={"hidden": [4]})  # fmt: skip
        populate(path, config, "perceptrons", progress=False)
        zoo = Zoo.open(path, writable=True)
        odd = zoo.create_population(odd_info())
        odd.append(odd_batch(range(4)))
        zoo.tag("four")
        odd.append(odd_batch(range(4, 6)))
        (FOLDER / f"{name}.json").write_text(json.dumps(summary(zoo), indent=1) + "\n")
        shutil.make_archive(str(FOLDER / name), "zip", path)


if __name__ == "__main__":
    make(f"zoo-{ZOO_ENCODING['encoding-version']}")
