"""Seals a package in a process of its own and says so; whoever started it kills it in the middle."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from services.exporter.vault import FolderStore, Place
from shared.sealing import Keyring
from tests.contract.exporter_house import Installation, customer, exporter_house


class Slow(FolderStore):
    """Says that sealing has begun once some of the archive is on the disk, and then never ends."""

    package = ""

    @contextmanager
    def create(self, place: Place) -> Iterator[BinaryIO]:
        with super().create(place) as file:
            yield file
            if self.package:
                print(self.package, flush=True)
                time.sleep(600)


async def main(url: str, folder: Path) -> None:
    installation = Installation(keyring=Keyring.from_json((folder / "keys.json").read_text()))
    store = Slow(folder / "vault")
    async with exporter_house(url, folder, store=store, installation=installation) as house:
        package = await house.package()
        await house.fill(package, [customer(str(number)) for number in range(5000)])
        store.package = package
        await house.release(package)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
