"""The whole path on real data, from two populations to one table: `make demo`.

It populates a zoo with an implicit neural representation (SIREN) of each of the 1,797 handwritten digits of
scikit-learn and with 400 small CNNs of varied hyper-parameters, trains the graph metanet on both (which digit does
this network represent? how accurate is this network?), and compares it with a perceptron on flattened weights and with
boosted trees on weight statistics. Run it again: what is there is kept.

The sines have ω₀ = 8: an 8×8 image holds no frequency above 3.5π ≈ 11, so the usual 30 would only let them swing
between the pixels. Every network starts from its own random weights, which is the hard case for a metanet.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metanets import runs
from metanets.projection import write
from metanets.runs import Run
from metanets.training import TrainingConfig, baselines, evaluate, train
from modelzoo.console import console, print_table
from modelzoo.store import Population
from modelzoo.training import PopulationConfig, populate

OUT = Path(__file__).parents[1] / "demo"
INRS, CNNS = "digits-inr", "digits-cnn"
seconds: dict[str, float] = {}


@contextmanager
def phase(title: str) -> Iterator[None]:
    console.print(f"[bold]{len(seconds) + 1}. {title}[/]")
    started = time.perf_counter()
    yield
    seconds[title] = time.perf_counter() - started


def said(population: Population) -> None:
    table, metric = population.table, f"test_{population.task.metric}"
    scores = table.loc[table["status"] == "ok", metric]
    console.print(
        f"   {len(table):,} models; {metric} from {scores.min():.3g} to {scores.max():.3g}, median {scores.median():.3g} "
        f"({population.task.baseline}: {population.task.trivial_score():.3g})", highlight=False)  # fmt: skip


def compare(run: Run) -> dict[str, dict[str, float]]:
    """Metrics on the test split, by model."""
    rows = evaluate(run) + baselines(run)
    return {row["model"]: row for row in rows if row["split"] == "test"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the zoo, the runs and the picture")
    parser.add_argument("--inrs", type=int, default=1797, help="implicit representations (default: every digit)")
    parser.add_argument("--cnns", type=int, default=400, help="convolutional networks")
    parser.add_argument("--epochs", type=int, nargs=2, default=(12, 25), help="of the metanet on either population")
    options = parser.parse_args()
    zoo, folder = options.out / "zoo", options.out / "runs"
    shown = options.out.relative_to(Path.cwd()) if options.out.is_relative_to(Path.cwd()) else options.out

    with phase(f"populate: one SIREN for each of {options.inrs:,} digits"):
        siren = PopulationConfig.read(
            family="siren", family_config={"hidden": (16, 16), "omega": 8.0}, task="digits_inr", models=options.inrs,
            steps=200, learning_rate=3e-3,
        )  # fmt: skip
        said(populate(zoo, siren, INRS))
    with phase(f"populate: {options.cnns} small CNNs, from chance to good"):
        cnn = PopulationConfig.read(
            family="small_cnn", task="digits", models=options.cnns, steps=150, batch_size=32,
            learning_rate="1e-4:3e-2", weight_decay="1e-4:1", data_fraction="0.05:1", init_scale="0.3:3",
        )  # fmt: skip
        said(populate(zoo, cnn, CNNS))
    with phase("train the metanet: which digit does a network represent?"):
        config = TrainingConfig.read(target="label", epochs=options.epochs[0])
        digit = train(zoo, [INRS], folder / "which-digit", config)
    with phase("train the metanet: how accurate is a network?"):
        config = TrainingConfig.read(target="test_accuracy", epochs=options.epochs[1], batch_size=16)
        accuracy = train(zoo, [CNNS], folder / "how-accurate", config)
    with phase("train the baselines"):
        classes, numbers = compare(digit), compare(accuracy)
    with phase("draw the embedding"):
        picture, _ = write(runs.load(digit.path), options.out / "embedding.png", "tsne")

    counts = (classes["graph_metanet"]["models"], numbers["graph_metanet"]["models"])
    rows = [
        {"": name, "digit of a SIREN: accuracy": classes[name]["accuracy"],
         "accuracy of a CNN: R²": numbers[name]["r2"], "Kendall's τ": numbers[name]["tau"]}
        for name in classes
    ]  # fmt: skip
    print_table(rows, f"on {counts[0]} and {counts[1]} networks that no model has seen")
    console.print(" · ".join(f"{name.split(':')[0]} {value:.0f} s" for name, value in seconds.items()) + f" · in all {sum(seconds.values()):.0f} s", highlight=False)  # fmt: skip
    console.print(f"picture of the embedding: {shown / picture.name}", highlight=False)
    console.print(f"look at everything:       metazoo app --zoo {shown / 'zoo'}", highlight=False)


if __name__ == "__main__":
    main()
