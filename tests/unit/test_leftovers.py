"""A run of tests that was killed leaves nothing running, once the next one begins."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from tests.support import leftovers

KILLED = """
import os, signal, subprocess, sys
from tests.support import leftovers
leftovers.mark_run()
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
print(subprocess.Popen(sleep, stdout=subprocess.DEVNULL).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_stopped_and_nothing_else() -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=root, stdout=subprocess.PIPE, text=True)
    left = psutil.Process(int(killed.stdout))
    assert left.is_running()
    mine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert left in leftovers.stop_leftovers(own=False)
        assert not left.is_running()
        assert mine.poll() is None, "this run goes on"
    finally:
        mine.kill()
        mine.wait()
