"""What do the exporter's use cases work with? Everything that varies, wired once."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar

from services.exporter.keys import SigningKeys
from services.exporter.registers import Registers
from services.exporter.settings import Settings
from services.exporter.tables import Package
from services.exporter.vault import Box, Damaged, Store, outlast
from shared.clock import Clock
from shared.database import Database
from shared.post import Post
from shared.problems import Gone
from shared.sealing import DataSealer, SealBroken, Sealer, new_data_key

T = TypeVar("T")

SERVICE = "exporter"
_DATA_KEY = "exporter.package"
_BINDING_KEY = "binding_key"


class PackageGone(Gone):
    """The package was destroyed."""

    code = "package-destroyed"


@dataclass(frozen=True, slots=True)
class Unlocked:
    """A package's objects and keys, for as long as a call needs them."""

    box: Box
    fields: DataSealer
    binding_key: bytes = field(repr=False)


class Background:
    """Work that outlives the call that began it, and ends with the process."""

    def __init__(self, sealers: int) -> None:
        """`sealers` packages are sealed at once; more wait, so that memory has a bound and uploads have threads."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sealers = ThreadPoolExecutor(sealers, "sealer")
        self.stopping = Event()
        """Set when the process ends: long work in threads looks at it and gives up."""

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work`; its error, if nobody asks for it, is nobody's."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def seal(self, function: Callable[[], T]) -> T:
        """Run `function` in a sealer's thread, and wait for its end whatever happens."""
        return await outlast(asyncio.get_running_loop().run_in_executor(self._sealers, function))

    async def stop(self) -> None:
        """Ask everything to give up, and wait until it has."""
        self.stopping.set()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._sealers.shutdown()

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


@dataclass(frozen=True, slots=True)
class Means:
    """Wired in `app`, passed to every use case."""

    database: Database
    store: Store
    sealer: Sealer
    registers: Registers
    keys: SigningKeys
    post: Post
    clock: Clock
    settings: Settings
    background: Background

    def lock(self, organisation: str, package_id: str, binding_key: bytes) -> tuple[bytes, bytes]:
        """Return a new wrapped data key, and the binding key sealed under it."""
        data_key = new_data_key()
        wrapped = self.sealer.wrap(organisation, _DATA_KEY, package_id, data_key)
        return wrapped, DataSealer(data_key).seal(_BINDING_KEY, binding_key)

    def unlock(self, package: Package) -> Unlocked:
        """Return what opens a package. Raises `PackageGone` where its key was destroyed."""
        if package.data_key is None or package.binding_key is None:
            raise PackageGone
        try:
            data_key = self.sealer.unwrap(package.organisation_id, _DATA_KEY, package.id, package.data_key)
            fields = DataSealer(data_key)
            binding_key = fields.open(_BINDING_KEY, package.binding_key)
        except SealBroken:
            raise Damaged from None
        return Unlocked(Box(self.store, package.organisation_id, package.id, data_key), fields, binding_key)
