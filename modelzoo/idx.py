"""Image sets in idx files (the format of MNIST): found in a local folder, or downloaded with a pinned checksum."""

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from modelzoo.errors import UserError

BYTES = 0x08  # the idx type code of unsigned bytes
TIMEOUT = 20.0  # seconds without an answer from a mirror
LARGEST_DOWNLOAD = 64 * 2**20


def data_folder() -> Path:
    """Where data sets lie: `METAZOO_DATA`, else the user's cache folder."""
    return Path(os.environ.get("METAZOO_DATA") or platformdirs.user_cache_path("metazoo") / "data")


def read_idx(content: bytes) -> Tensor:
    """The array of an unpacked idx file of unsigned bytes; raises `ValueError` saying what is wrong with it.

    The header is two zero bytes, the type code, the number of dimensions, and each dimension as a big-endian uint32.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError("it does not start with an idx header")
    if content[2] != BYTES:
        raise ValueError(f"its type code is 0x{content[2]:02x}, expected 0x{BYTES:02x} (unsigned bytes)")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    size = 1
    for length in shape:
        size *= length
    if len(content) - start != size:
        raise ValueError(f"its header promises {size} bytes, {max(0, len(content) - start)} follow")
    if not size:
        raise ValueError("it is empty")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)


def unpack(content: bytes) -> bytes:
    """The content of a gzip file, or the bytes themselves; raises `ValueError` for a broken archive."""
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from None


@dataclass(frozen=True)
class IdxImages:
    """A set of grey images with labels in four idx files; local files are checked by header and shape alone.

    Args:
        title: as people call it.
        folders: where the files may lie: relative to the data folder, or absolute. Downloads go into the first.
        mirrors: addresses that hold the `.gz` files, tried in turn.
        checksums: SHA-256 of the unpacked files, by file name without `.gz`; gzip headers differ from mirror to mirror.
        train, test: number of images.
        size: height and width of an image.
    """

    title: str
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    checksums: Mapping[str, str]
    train: int = 60_000
    test: int = 10_000
    size: tuple[int, int] = (28, 28)

    def load(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Training images `[train, 1, height, width]` in [0, 1] and labels `[train]`, then the same for testing.

        Raises:
            UserError: a file is neither found nor downloaded, or a local one is not what it should be.
        """
        parts: list[Tensor] = []
        for prefix, count in (("train", self.train), ("t10k", self.test)):
            images = self._array(f"{prefix}-images-idx3-ubyte", (count, *self.size))
            parts += [images.unsqueeze(1).float() / 255, self._array(f"{prefix}-labels-idx1-ubyte", (count,)).long()]
        return parts[0], parts[1], parts[2], parts[3]

    def _array(self, name: str, shape: tuple[int, ...]) -> Tensor:
        path = self._find(name) or self._download(name)
        try:
            array = read_idx(unpack(path.read_bytes()))
            if tuple(array.shape) != shape:
                raise ValueError(f"its shape is {_times(array.shape)}")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.title}: '{path}' is not an idx file of {_times(shape)} bytes: {error}; "
                "replace it, or delete it to have it downloaded."
            ) from None
        return array

    def _find(self, name: str) -> Path | None:
        candidates = (data_folder() / folder / file for folder in self.folders for file in (name, name + ".gz"))
        return next((path for path in candidates if path.is_file()), None)

    def _download(self, name: str) -> Path:
        """Fetch one file and check it; nothing is left behind unless it is whole and right."""
        folder = data_folder() / self.folders[0]
        reasons: list[str] = []
        for mirror in self.mirrors:
            try:
                with urllib.request.urlopen(mirror + name + ".gz", timeout=TIMEOUT) as answer:
                    content = answer.read(LARGEST_DOWNLOAD)
                found = hashlib.sha256(unpack(content)).hexdigest()
            except (OSError, ValueError, http.client.HTTPException) as error:
                reasons.append(f"{mirror}: {error}")
                continue
            if found == self.checksums[name]:
                return _write(folder / (name + ".gz"), content)
            reasons.append(f"{mirror}: SHA-256 is {found}, expected {self.checksums[name]}")
        raise UserError(
            f"{self.title}: {name}.gz is not in '{folder}' and could not be downloaded ({'; '.join(reasons)}); put the "
            f"four idx files into '{folder}', or set METAZOO_DATA to the folder that holds {self.folders[0]!r}."
        )


def _times(shape: tuple[int, ...] | torch.Size) -> str:
    return " × ".join(map(str, shape))


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                file.close()
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(
            f"cannot write '{path}' ({error.strerror}); set METAZOO_DATA to a folder you can write."
        ) from None
    return path
