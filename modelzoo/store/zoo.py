"""Contract 3, the zoo: populations of trained models in one Zarr v3 hierarchy inside an Icechunk repository.

Every change is one commit: readers never see half of it, a crash loses at most the change in flight, two writers never
overwrite each other silently. `docs/format.md` states the layout.
"""

import errno
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import icechunk
import pandas as pd
import zarr
from filelock import FileLock, Timeout
from zarr.errors import GroupNotFoundError

from modelzoo.errors import UnknownNameError, UserError
from modelzoo.store.population import ENCODING, Population
from modelzoo.store.query import select
from modelzoo.store.records import PopulationInfo, Problem, Version, check_encoding, check_name

ZOO_ENCODING = {"encoding-type": "metazoo-zoo", "encoding-version": "1.0.0"}
BRANCH = "main"
LOCK_FILE = ".lock"
LOCK_SECONDS = 60.0  # a commit takes well under a second

icechunk.set_logs_filter("error")  # its warning that local commits race is answered by the lock below


def storage(path: str | Path) -> icechunk.Storage:
    """Icechunk storage of a local folder, `s3://bucket/prefix`, or `memory://` (gone with the object)."""
    text = str(path)
    if text.startswith("s3://"):
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        return icechunk.s3_storage(bucket=bucket, prefix=prefix, from_env=True)
    if text.startswith("memory://"):
        return icechunk.in_memory_storage()
    return icechunk.local_filesystem_storage(str(Path(text).absolute()))


def _configuration() -> icechunk.RepositoryConfig:
    config = icechunk.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 512
    return config


class Zoo:
    """A zoo of trained models; open it with `Zoo.open`, `Zoo.create` or `Zoo.open_or_create`."""

    def __init__(self, path: str, repository: icechunk.Repository, writable: bool, at: str | None = None) -> None:
        self.path = path
        self.writable = writable
        self._repository = repository
        self._at = at

    @classmethod
    def create(cls, path: str | Path) -> "Zoo":
        """A new, empty zoo; raises `UserError` when the place is taken or cannot be written."""
        zoo = cls._create(path)
        if zoo is None:
            raise UserError(f"{str(path)!r} exists and is not empty; choose another path for the new zoo.")
        return zoo

    @classmethod
    def _create(cls, path: str | Path) -> "Zoo | None":
        """A new zoo, or None when something is there already, perhaps made by another process a moment ago."""
        target, folder = str(path), Path(path)
        try:
            if not _is_local(path):
                place = storage(path)
                if icechunk.Repository.exists(place):
                    return None
                return cls(target, _new_repository(place), writable=True)
            if folder.exists():
                if not folder.is_dir():
                    raise UserError(f"{target!r} is a file; choose another path for the new zoo.")
                if _contents(folder):
                    return None
                return cls(target, _new_repository(storage(path)), writable=True)
            # Made beside its place and moved there in one step: nobody sees half a zoo or races for the place.
            making = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
            making.mkdir(parents=True)
            try:
                _new_repository(storage(making))
                making.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                return None
            finally:
                shutil.rmtree(making, ignore_errors=True)
            return cls.open(path, writable=True)
        except (OSError, icechunk.IcechunkError) as error:
            raise UserError(f"cannot create a zoo at {target!r}: {_reason(error)}; choose a writable path.") from None

    @classmethod
    def open(cls, path: str | Path, writable: bool = False, at: str | None = None) -> "Zoo":
        """An existing zoo.

        Args:
            path: folder or `s3://…`.
            writable: whether populations may be added, extended or deleted.
            at: a snapshot id or tag, to read the zoo as it was then.

        Raises:
            UserError: there is no zoo at the path, or its format is of another version.
        """
        target = str(path)
        if _is_local(path) and not Path(path).exists():
            raise UserError(f"there is no zoo at {target!r}; make one with: metazoo populate {target} FAMILY.")
        not_a_zoo = UserError(f"{target!r} is not a zoo (no Icechunk repository there); name the folder of a zoo.")
        try:
            if _is_local(path) and not _contents(Path(path)):  # raises OSError for a file and for a closed folder
                raise not_a_zoo
            repository = icechunk.Repository.open(storage(path), _configuration())
        except NotADirectoryError:
            raise not_a_zoo from None
        except (OSError, icechunk.IcechunkError) as error:
            if "repository doesn't exist" in str(error):
                raise not_a_zoo from None
            raise UserError(f"cannot read the zoo {target!r}: {_reason(error)}.") from None
        zoo = cls(target, repository, writable)
        if at is not None:
            zoo = zoo.at(at)
        try:
            attributes = dict(zarr.open_group(zoo.session().store, mode="r").attrs)
        except (GroupNotFoundError, FileNotFoundError):
            attributes = {}
        check_encoding(repr(target), attributes, ZOO_ENCODING)
        return zoo

    @classmethod
    def open_or_create(cls, path: str | Path) -> "Zoo":
        """The zoo at the path, writable, made if there is nothing there yet."""
        there = _is_local(path) and Path(path).is_dir() and bool(_contents(Path(path)))
        made = None if there else cls._create(path)
        return cls.open(path, writable=True) if made is None else made

    def at(self, name: str) -> "Zoo":
        """The zoo as it was at a snapshot id or tag, for reading."""
        return Zoo(self.path, self._repository, writable=False, at=name)

    def session(self) -> icechunk.Session:
        """A read-only session at the newest snapshot, or at the one the zoo was opened at."""
        if self._at is None:
            try:
                return self._repository.readonly_session(branch=BRANCH)
            except icechunk.IcechunkError as error:
                raise UserError(f"cannot read the newest state of the zoo {self.path!r}: {_reason(error)}.") from None
        try:
            if self._at in self._repository.list_tags():
                return self._repository.readonly_session(tag=self._at)
            return self._repository.readonly_session(snapshot_id=self._at)
        except icechunk.IcechunkError:
            raise UserError(f"the zoo has no snapshot or tag {self._at!r}; metazoo history lists them.") from None

    @property
    def snapshot_id(self) -> str:
        """Identifies the state that is read: the key of every cache."""
        return str(self.session().snapshot_id)

    @contextmanager
    def transaction(self, message: str) -> Iterator[zarr.Group]:
        """The root group, writable; what is done to it is committed as one change at the end, or not at all.

        Raises:
            UserError: the zoo is read-only, the disk refused, or another writer changed the same population meanwhile.
        """
        if not self.writable:
            raise UserError(
                f"the zoo {self.path!r} is open for reading only; open it with writable=True and without at=."
            )
        try:
            with _lock(self.path):
                session = self._repository.writable_session(BRANCH)
                yield zarr.open_group(session.store, mode="r+")
                session.commit(message, rebase_with=icechunk.ConflictDetector())
        except Timeout:
            raise UserError(
                f"another process has been writing to {self.path!r} for a minute; nothing was written, try again."
            ) from None
        except (icechunk.ConflictError, icechunk.RebaseFailedError):
            raise UserError(
                f"another process changed the same population of {self.path!r} meanwhile; nothing was written, run the command again."
            ) from None  # fmt: skip
        except (OSError, icechunk.IcechunkError) as error:
            raise UserError(f"cannot write to the zoo {self.path!r}: {_reason(error)}; nothing was changed.") from None

    def names(self) -> list[str]:
        """Names of the populations, sorted."""
        return sorted(zarr.open_group(self.session().store, mode="r").group_keys())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[Population]:
        return (self[name] for name in self.names())

    def __getitem__(self, name: str) -> Population:
        names = self.names()
        if name not in names:
            raise UnknownNameError("population", name, names, f"metazoo ls {self.path}")
        return Population(self, name)

    def __repr__(self) -> str:
        return f"Zoo({self.path!r}, populations={self.names()})"

    def create_population(self, info: PopulationInfo) -> Population:
        """Add an empty population; raises `UserError` when its name is taken or not usable."""
        with self.transaction(f"create {info.name}") as root:
            self._new_group(root, info)
        return self[info.name]

    def _new_group(self, root: zarr.Group, info: PopulationInfo) -> zarr.Group:
        if check_name(info.name) in root:
            raise UserError(f"the zoo {self.path!r} already has a population {info.name!r}; choose another name or remove it first (metazoo rm).")  # fmt: skip
        return root.create_group(info.name, attributes={**ENCODING, "population": info.model_dump(mode="json")})

    def table(self) -> pd.DataFrame:
        """The model table over all populations: one row a model, indexed by `population/id`."""
        tables = []
        for population in self:
            table = population.table.reset_index()
            if table.empty:  # its columns, without values, would turn integers of the others into rounded numbers
                continue
            table.insert(0, "population", population.name)
            table.insert(1, "family", population.info.family)
            table.insert(2, "task", population.info.task)
            table.index = pd.Index(table["population"] + "/" + table["id"].astype(str), name="model")
            tables.append(table)
        if not tables:
            return pd.DataFrame({"population": [], "family": [], "task": [], "id": []})
        return pd.concat(tables)

    def query(self, expression: str) -> pd.DataFrame:
        """Rows of `table()` for which the expression holds, e.g. `test_accuracy > 0.9 and family == 'small_cnn'`."""
        return select(self.table(), expression)

    def history(self) -> list[Version]:
        """Every commit, newest first."""
        ancestry = self._repository.ancestry(snapshot_id=self.snapshot_id)
        return [Version(entry.id, entry.written_at, entry.message) for entry in ancestry]

    def tag(self, name: str) -> None:
        """Give the present state a name that `Zoo.open(path, at=name)` finds for ever."""
        check_name(name, "tag")
        try:
            self._repository.create_tag(name, self.snapshot_id)
        except icechunk.IcechunkError as error:
            raise UserError(f"cannot make the tag {name!r}: {_reason(error)}.") from None

    def delete(self, name: str) -> None:
        """Remove a population; the history keeps it."""
        with self.transaction(f"delete {name}") as root:
            if name not in root:
                raise UnknownNameError("population", name, root.group_keys(), f"metazoo ls {self.path}")
            del root[name]

    def copy(self, name: str, into: "Zoo", new_name: str | None = None) -> Population:
        """Copy a population into a zoo (possibly this one) in one commit; values stay bit-equal."""
        source = self[name]
        info = source.info.model_copy(update={"name": new_name or name})
        with into.transaction(f"copy {name} to {info.name}") as root:
            source.copy_arrays(into._new_group(root, info))
        return into[info.name]

    def verify(self) -> list[Problem]:
        """Read every chunk of every array and check lengths and values; an empty list means that all is well."""
        from modelzoo.store.integrity import check

        problems = []
        for name in self.names():
            try:
                problems += check(self[name])
            except UserError as error:  # its attributes cannot be read: the other populations still can
                problems.append(Problem(name, "", (), str(error)))
        return problems


def _new_repository(place: icechunk.Storage) -> icechunk.Repository:
    repository = icechunk.Repository.create(place, _configuration())
    with repository.transaction(BRANCH, message="create zoo") as store:
        zarr.create_group(store, attributes=dict(ZOO_ENCODING))
    return repository


def _is_local(path: str | Path) -> bool:
    return "://" not in str(path)


def _contents(folder: Path) -> list[Path]:
    """What is in a folder, besides the file that processes lock."""
    return [entry for entry in folder.iterdir() if entry.name != LOCK_FILE]


def _lock(path: str) -> FileLock | nullcontext[None]:
    """Object stores commit atomically by themselves; a local folder needs a lock between processes."""
    return FileLock(Path(path) / LOCK_FILE, timeout=LOCK_SECONDS) if _is_local(path) else nullcontext()


def _reason(error: Exception) -> str:
    """The heart of a storage error's message on one line."""
    text = str(error)
    for known in ("No space left on device", "File too large", "Permission denied", "Read-only file system"):
        if known.lower() in text.lower():
            return known.lower()
    lines = [line.strip(" │|-×").removeprefix("x ") for line in text.splitlines()]
    return next((line for line in lines if line), type(error).__name__)
