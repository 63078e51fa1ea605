"""What the tasks promise about their data: determinism, shapes, baselines; and the reader of idx files."""

import gzip
import hashlib
import urllib.request
from io import BytesIO
from pathlib import Path

import pytest
import torch

from modelzoo.errors import UserError
from modelzoo.family import families
from modelzoo.idx import IdxImages, read_idx
from modelzoo.task import Split, TaskData, task, tasks
from modelzoo.tasks import characters, fashion_mnist, karate, mnist, solids, stochastic_block
from modelzoo.tasks.digits import psnr_of_mean

OWN = ("breast_cancer", "diabetes", "characters", "karate", "stochastic_block", "solids")


def samples(name: str, split: Split) -> list[tuple[int, ...]]:
    """Shapes of one sample of inputs and targets."""
    shared = task(name).inputs.kind == "graph"
    return [tuple(split.inputs[0].shape[0 if shared else 1 :]), tuple(split.targets.shape[1:])]


@pytest.mark.parametrize("name", OWN)
def test_data_is_deterministic(name: str) -> None:
    first, second = task(name).load(), task(name).load()
    torch.manual_seed(123)
    for split in ("train", "test"):
        one, two = getattr(first, split), getattr(second, split)
        assert all(torch.equal(a, b) for a, b in zip(one.inputs, two.inputs, strict=True))
        assert torch.equal(one.targets, two.targets)


@pytest.mark.parametrize("name", OWN)
def test_shapes_and_classes_match_the_specification(name: str) -> None:
    found, data = task(name), task(name).data()
    for split in (data.train, data.test):
        assert samples(name, split) == [found.inputs.shape, found.targets.shape]
        assert split.inputs[0].dtype == (torch.int64 if found.inputs.kind == "tokens" else torch.float32)
        if found.targets.classes:
            assert split.targets.dtype == torch.int64
            assert 0 <= split.targets.min() <= split.targets.max() < found.targets.classes
    assert any(found.inputs.kind in family.accepts for family in families().values())


def test_tables_are_standardized_on_the_training_rows_and_split_without_overlap() -> None:
    for name, rows in (("breast_cancer", 569), ("diabetes", 442)):
        data = task(name).data()
        x, held_out = data.train.inputs[0], data.test.inputs[0]
        assert len(x) + len(held_out) == rows
        torch.testing.assert_close(x.mean(0), torch.zeros(x.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std(0), torch.ones(x.shape[1]), atol=1e-4, rtol=0)
        assert not (x[:, None] == held_out[None]).all(-1).any()


def test_trivial_baselines_are_the_stated_predictors() -> None:
    cancer, diabetes = task("breast_cancer").data(), task("diabetes").data()
    assert cancer.train.targets.bincount().argmax() == 1, "benign is more frequent"
    assert task("breast_cancer").trivial_score() == pytest.approx(float((cancer.test.targets == 1).float().mean()))
    error = (diabetes.test.targets - diabetes.train.targets.mean()).square().sum()
    spread = (diabetes.test.targets - diabetes.test.targets.mean()).square().sum()
    assert task("diabetes").trivial_score() == pytest.approx(float(1 - error / spread), abs=1e-5)
    assert task("karate").trivial_score() == 0.5
    assert task("solids").trivial_score() == pytest.approx(0.2)


def test_the_unigram_baseline_is_what_its_own_logits_score() -> None:
    """The closed form agrees with the task's metric on constant logits, and beats the uniform guess."""
    found, data = task("characters"), task("characters").data()
    counts = torch.zeros(characters.VOCABULARY).index_add_(
        0, data.train.targets.flatten(), torch.ones(data.train.targets.numel())
    )
    logits = ((counts + 1) / (counts + 1).sum()).log().expand(*data.test.targets.shape, -1)
    assert float(found.score(logits, data.test.targets)) == pytest.approx(found.trivial_score(), rel=1e-4)
    uniform = torch.zeros_like(logits)
    assert float(found.score(uniform, data.test.targets)) > found.trivial_score() + 1


def test_targets_of_the_language_model_are_the_next_characters() -> None:
    data = task("characters").data().train
    assert torch.equal(data.targets[:, :-1], data.inputs[0][:, 1:])
    assert torch.equal(data.targets[:-1, -1], data.inputs[0][1:, 0])


def test_characters_outside_the_alphabet_become_token_zero() -> None:
    tokens = characters.encode("A\n~é")
    assert tokens.tolist()[-1] == 0
    assert tokens.max() < characters.VOCABULARY
    assert characters.decode(tokens) == "A\n~�"


@pytest.mark.parametrize("name", ["karate", "stochastic_block"])
def test_graphs_are_undirected_without_loops_or_repeats(name: str) -> None:
    for split in (task(name).data().train, task(name).data().test):
        x, edges = split.inputs
        pairs = {(int(a), int(b)) for a, b in edges.T}
        assert len(pairs) == edges.shape[1]
        assert all(a != b and (b, a) in pairs for a, b in pairs)
        assert 0 <= edges.min() <= edges.max() < len(x)


def test_the_karate_club_shows_only_its_leaders() -> None:
    data = task("karate").data()
    assert data.train.mask is not None
    assert data.test.mask is not None
    assert data.train.mask.nonzero().flatten().tolist() == list(karate.LEADERS)
    assert torch.equal(data.train.mask, ~data.test.mask)
    assert data.train.targets.bincount().tolist() == [17, 17]
    assert data.train.targets[list(karate.LEADERS)].tolist() == [0, 1]


def test_edges_of_block_graphs_follow_the_stated_probabilities() -> None:
    inside, between, pairs_inside, pairs_between = 0, 0, 0, 0
    for seed in range(10):
        split = stochastic_block.graphs(seed)
        (first, second), community = split.inputs[1], split.targets
        assert torch.equal(first // stochastic_block.NODES, second // stochastic_block.NODES)
        same = community[:, None] == community[None]
        graph = torch.arange(len(community)) // stochastic_block.NODES
        together = (graph[:, None] == graph[None]) & ~torch.eye(len(community), dtype=torch.bool)
        inside += int((community[first] == community[second]).sum())
        between += int((community[first] != community[second]).sum())
        pairs_inside += int((same & together).sum())
        pairs_between += int((~same & together).sum())
    assert inside / pairs_inside == pytest.approx(stochastic_block.INSIDE, rel=0.05)
    assert between / pairs_between == pytest.approx(stochastic_block.BETWEEN, rel=0.1)


@pytest.mark.parametrize("name", list(solids.SOLIDS))
def test_points_lie_on_their_solid(name: str) -> None:
    x, y, z = solids.SOLIDS[name](2000, torch.Generator().manual_seed(0)).T
    rim = (x**2 + y**2).sqrt()
    far = {
        "sphere": (rim**2 + z**2 - 1).abs(),
        "cube": torch.stack([x, y, z]).abs().amax(0) - 1,
        "cylinder": torch.maximum(rim, z.abs()) - 1,
        "cone": torch.minimum((rim - (1 - z) / 2).abs(), (z + 1).abs()) + (rim - 1).relu(),
        "torus": ((rim - 1) ** 2 + z**2).sqrt() - 0.4,
    }[name]
    assert far.abs().max() < 1e-5


def test_points_are_uniform_on_the_surfaces() -> None:
    """Parts of known area: the cylinder's discs, the cone's disc, the torus's outer half."""
    generator = torch.Generator().manual_seed(1)
    count = 40_000
    x, y, z = solids.cylinder(count, generator).T
    assert float((z.abs() == 1).float().mean()) == pytest.approx(1 / 3, abs=0.01)
    z = solids.cone(count, generator)[:, 2]
    assert float((z == -1).float().mean()) == pytest.approx(1 / (1 + 5**0.5), abs=0.01)
    assert float((z > 0).float().mean()) == pytest.approx(5**0.5 / (1 + 5**0.5) / 4, abs=0.01)
    x, y, _ = solids.torus(count, generator).T
    assert float((x**2 + y**2 > 1).float().mean()) == pytest.approx(0.5 + 0.4 / torch.pi, abs=0.01)


def test_sets_are_centred_and_of_equal_size() -> None:
    points = task("solids").data().train.inputs[0]
    torch.testing.assert_close(points.mean(1), torch.zeros(len(points), 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(points.square().sum(-1).mean(1), torch.ones(len(points)), atol=1e-4, rtol=0)


# idx files


def idx(array: torch.Tensor) -> bytes:
    """An array of bytes as an idx file."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.numpy().tobytes()


def tiny() -> dict[str, bytes]:
    """Four unpacked idx files: three training and two test images of 5×4 pixels."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> bytes:
        return idx(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))

    return {
        "train-images-idx3-ubyte": draw(3, 5, 4),
        "train-labels-idx1-ubyte": idx(torch.tensor([7, 0, 9], dtype=torch.uint8)),
        "t10k-images-idx3-ubyte": draw(2, 5, 4),
        "t10k-labels-idx1-ubyte": idx(torch.tensor([1, 2], dtype=torch.uint8)),
    }


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IdxImages:
    """A tiny image set that looks into an empty folder and cannot be downloaded."""
    monkeypatch.setenv("METAZOO_DATA", str(tmp_path / "data"))

    def refuse(url: str, timeout: float) -> BytesIO:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in tiny().items()}
    return IdxImages("Tiny", ("tiny",), ("https://one/", "https://two/"), checksums, train=3, test=2, size=(5, 4))


def place(folder: Path, packed: bool = False) -> None:
    folder.mkdir(parents=True)
    for name, content in tiny().items():
        path = folder / (name + ".gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True], ids=["idx", "idx.gz"])
def test_local_files_are_read(images: IdxImages, tmp_path: Path, packed: bool) -> None:
    place(tmp_path / "data" / "tiny", packed)
    x, y, x_test, y_test = images.load()
    assert x.shape == (3, 1, 5, 4)
    assert x_test.shape == (2, 1, 5, 4)
    assert y.tolist() == [7, 0, 9]
    assert y_test.tolist() == [1, 2]
    raw = torch.frombuffer(bytearray(tiny()["train-images-idx3-ubyte"]), dtype=torch.uint8, offset=16)
    torch.testing.assert_close(x.flatten(), raw.float() / 255)


def test_an_image_set_makes_both_tasks(images: IdxImages, tmp_path: Path) -> None:
    place(tmp_path / "data" / "tiny")
    published = mnist.classification(images)
    assert (len(published.train.targets), len(published.test.targets)) == (3, 2)
    fields: TaskData = mnist.representation(images, tuple("0123456789"))
    assert fields.train.inputs[0].shape == (20, 2)
    assert fields.train.targets.shape == (5, 20, 1)
    assert fields.instance_labels is not None
    assert fields.instance_labels.tolist() == [7, 0, 9, 1, 2]
    torch.testing.assert_close(fields.train.targets[3].flatten(), published.test.inputs[0][0].flatten())
    assert 0 < psnr_of_mean(fields) < 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not found</html>", "does not start with an idx header"),
        (b"\0\0\x0d\x01\0\0\0\x01abcd", "type code is 0x0d"),
        (b"\0\0\x08\x01\0\0\0\x05ab", "promises 5 bytes, 2 follow"),
        (b"\0\0\x08\x03\0\0\0\x05", "bytes, 0 follow"),
        (b"\0\0\x08\x01\0\0\0\x00", "is empty"),
        (b"", "does not start"),
    ],
    ids=["text", "float type", "cut short", "cut header", "empty array", "nothing"],
)
def test_broken_idx_files_are_refused(images: IdxImages, tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_idx(content)
    place(tmp_path / "data" / "tiny")
    path = tmp_path / "data" / "tiny" / "train-labels-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        images.load()
    assert str(path) in str(error.value)


def test_a_local_file_of_another_shape_or_a_broken_archive_is_refused(images: IdxImages, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "tiny"
    place(folder)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(torch.zeros(4, dtype=torch.uint8)))
    with pytest.raises(UserError, match="is not an idx file of 3 bytes: its shape is 4"):
        images.load()
    (folder / "train-labels-idx1-ubyte").unlink()
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(tiny()["train-labels-idx1-ubyte"])[:-9])
    with pytest.raises(UserError, match="cannot be unpacked"):
        images.load()


def test_when_nothing_works_one_sentence_says_what_to_do(images: IdxImages, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        images.load()
    message = str(error.value)
    assert "\n" not in message
    for part in ("Tiny", "train-images-idx3-ubyte.gz", str(tmp_path / "data"), "no route to host", "METAZOO_DATA"):
        assert part in message
    assert not (tmp_path / "data").exists(), "nothing is left behind"


def serve(monkeypatch: pytest.MonkeyPatch, answers: dict[str, dict[str, bytes]]) -> list[str]:
    """Let mirrors answer with the given unpacked files; returns the list of addresses asked for."""
    asked: list[str] = []

    def answer(url: str, timeout: float) -> BytesIO:
        assert timeout <= 60
        asked.append(url)
        mirror, _, file = url.rpartition("/")
        if mirror + "/" not in answers:
            raise OSError("timed out")
        return BytesIO(gzip.compress(answers[mirror + "/"][file.removesuffix(".gz")]))

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return asked


def test_downloads_are_checked_kept_and_not_repeated(
    images: IdxImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, {"https://two/": tiny()})
    x, *_ = images.load()
    assert len(asked) == 8, "every file from the second mirror, after the first gave no answer"
    kept = sorted(path.name for path in (tmp_path / "data" / "tiny").iterdir())
    assert kept == sorted(name + ".gz" for name in tiny())
    again, *_ = images.load()
    assert len(asked) == 8
    assert torch.equal(x, again)


def test_a_download_with_a_wrong_checksum_is_not_kept(
    images: IdxImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = tiny()
    forged["train-images-idx3-ubyte"] = idx(torch.zeros(3, 5, 4, dtype=torch.uint8))
    serve(monkeypatch, {"https://one/": forged, "https://two/": forged})
    with pytest.raises(UserError, match=r"SHA-256 is .* expected"):
        images.load()
    assert not (tmp_path / "data").exists()
    serve(monkeypatch, {"https://one/": forged, "https://two/": tiny()})
    x, *_ = images.load()
    assert x.max() > 0, "the second mirror's file is right"


def test_a_folder_that_cannot_be_written_is_named(
    images: IdxImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, {"https://one/": tiny()})
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot write .* METAZOO_DATA"):
        images.load()


@pytest.mark.parametrize("images_of", [mnist.IMAGES, fashion_mnist.IMAGES], ids=lambda images: images.title)
def test_published_sets_have_a_checksum_for_every_file(images_of: IdxImages) -> None:
    assert set(images_of.checksums) == set(tiny())
    assert all(len(bytes.fromhex(checksum)) == 32 for checksum in images_of.checksums.values())
    assert len(set(images_of.checksums.values())) == 4


def test_tasks_that_may_download_say_so() -> None:
    online = {name for name, found in tasks().items() if not found.offline}
    assert {"mnist", "mnist_inr", "fashion_mnist", "fashion_mnist_inr"} <= online
    assert not online & set(OWN)


def test_what_may_be_downloaded_is_traced_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelzoo.task._loaded", lambda name: pytest.fail("example inputs loaded the data"))
    for found in tasks().values():
        if not found.offline:
            assert [x.shape for x in found.example_inputs(3)] == [(3, *found.inputs.shape)]
