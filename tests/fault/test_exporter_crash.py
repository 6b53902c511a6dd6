"""What a killed process leaves behind is healed by the next one."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from services.exporter.sweeps import remove_orphans
from services.exporter.tables import Package
from shared.sealing import Keyring
from tests.contract.exporter_house import Installation, exporter_house, fresh_sqlite

ROOT = Path(__file__).parents[2]


async def killed_while_sealing(url: str, folder: Path) -> str:
    """Let a process seal a package, kill it in the middle, and return the package's id."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fault.exporter_crashes", url, str(folder), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout
    try:
        async with asyncio.timeout(60):
            line = ""
            while len(line) != 36:  # an id; what comes before it are log lines
                line = (await child.stdout.readline()).decode().strip()
                assert line or not child.stdout.at_eof()
        return line
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()


async def test_a_process_killed_while_sealing_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    url, installation = fresh_sqlite(tmp_path), Installation(keyring=Keyring.generate())
    (tmp_path / "keys.json").write_text(installation.keyring.to_json())
    package = await killed_while_sealing(url, tmp_path)
    async with exporter_house(url, tmp_path, installation=installation) as house:
        (row,) = await house.rows(Package)
        assert (row.id, row.state) == (package, "sealing")
        assert sum(path.name.startswith(".tmp-") for path in house.objects(package)) == 1
        told = await house.release(package)
        assert (told.status, told.code) == (409, "sealing")

        house.clock.forward(seconds=31)
        assert (await house.release(package)).json["records"] == 5000

        for path in house.objects(package):
            os.utime(path, (0, 0))
        await remove_orphans(house.means)
        assert len(house.objects(package)) == 3
