"""What does it cost to have it: packages, disk, the time to start, memory at rest?"""

import re
import subprocess
import sys
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.figures import Figure
from benchmarks.house import ROOT, spawn, stop, until_healthy
from habeas.demo import free_port


def measure(*, short: bool = False) -> list[Figure]:
    """Return packages, installed size, seconds to healthy and idle memory of the demo (four services, one process)."""
    packages = len(re.findall(r"(?m)^[a-z0-9][a-z0-9._-]*(\[.*\])?==", (ROOT / "requirements.txt").read_text()))
    with TemporaryDirectory(prefix="habeas-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _run(folder, settle=0)  # the first start also makes keys, tables and people
        started, idle = _run(folder, settle=1 if short else 10)
        size = [] if short else [Figure("installed without development tools", _installed(folder), "MB", 350, "≤")]
    return [
        Figure("runtime packages", packages, "", 90, "≤"),
        *size,
        Figure("start to healthy", started, "s", 5, "≤"),
        Figure("memory at rest", idle, "MB", 200, "≤", "all four services and the engine in one process"),
    ]


def _run(folder: Path, *, settle: float) -> tuple[float, float]:
    port, began = free_port(), time.monotonic()
    command = [sys.executable, "-m", "habeas.cli", "demo", "--port", str(port), "--folder", str(folder / "demo")]
    process = spawn(command, folder)
    try:
        until_healthy(port, process)
        started = time.monotonic() - began
        time.sleep(settle)
        return started, psutil.Process(process.pid).memory_info().rss / 1e6
    finally:
        stop([process])


def _installed(folder: Path) -> float:
    """Install the pinned requirements into a fresh environment; return its megabytes."""
    home = folder / "venv"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "pip"), "install", "--quiet", "--require-hashes", "-r", str(ROOT / "requirements.txt")]
    subprocess.run(pip, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6
