"""Stop what a run of tests has started and left behind: an interrupted run cannot tidy up in every process.

Every process that a run starts inherits a mark in its environment, which names the run. A run stops its own
when it ends, and those of runs that were killed when it begins.
"""

from __future__ import annotations

import contextlib
import os

import psutil

MARK = "SLIMLLM_TEST_RUN"


def name_process(process: psutil.Process) -> str:
    """Return a name of a process that no later one will have."""
    return f"{process.pid}-{process.create_time():.2f}"


def mark_run() -> None:
    """Mark this process, and all that it will start, as a run of tests."""
    os.environ[MARK] = name_process(psutil.Process())


def is_alive(run: str) -> bool:
    """Return whether the process that began a run still exists."""
    try:
        return name_process(psutil.Process(int(run.split("-")[0]))) == run
    except (psutil.NoSuchProcess, ValueError):
        return False


def stop_leftovers(own: bool) -> list[psutil.Process]:
    """Kill what runs that are over have left, and with `own` what this run has started; return it."""
    found = []
    me = psutil.Process()
    for process in psutil.process_iter():
        try:
            run = process.environ().get(MARK)
        except psutil.Error:
            continue
        mine = run == os.environ.get(MARK)
        if run and process != me and (own if mine else not is_alive(run)):
            found.append(process)
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, timeout=5)
    return found
