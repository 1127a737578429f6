"""Run commands of the command line in forks of one process that has loaded the program.

This saves the seconds that every start takes. Jobs arrive as JSON lines, and so do the answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("SOAK_ROOT") or Path(__file__).parents[2])
KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    `status` is the exit status, or minus the signal if it is negative; KILLED stands for a command that
    exceeded its time or memory. `out` and `err` are its output, `seconds` is its duration, and `mib` is the
    largest growth of its memory in MiB.
    """

    status: int
    out: str
    err: str
    seconds: float
    mib: float

    @property
    def said(self) -> str:
        """The last line on stderr, or an empty string."""
        return (self.err.strip().splitlines() or [""])[-1]


class Soaker:
    """A process that runs commands in forks of itself."""

    def __init__(self, home: Path) -> None:
        env = {**os.environ, "SLIMLLM_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(Path(__file__))]
        self.program = subprocess.Popen(
            command, cwd=ROOT, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.program.stdin
        assert self.program.stdout
        self.to, self.back = self.program.stdin, self.program.stdout

    def run(self, arguments: list[str], deadline: float, mib: float) -> Outcome:
        """Run a command and return its outcome; kill it after `deadline` seconds or beyond `mib` MiB."""
        print(json.dumps([arguments, deadline, mib]), file=self.to, flush=True)
        line = self.back.readline()
        assert line, "the program that commands are forked off is gone"
        return Outcome(**json.loads(line))

    def close(self) -> None:
        """End the process; it has 20 seconds for that."""
        self.to.close()
        self.program.wait(20)


@contextlib.contextmanager
def soaker(home: Path) -> Iterator[Soaker]:
    """Yield a `Soaker` with this home folder, and close it afterwards."""
    made = Soaker(home)
    try:
        yield made
    finally:
        made.close()


def resident(pids: list[int]) -> float:
    """Return the private memory of these processes in MiB."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/statm").read_text().split()
            total += int(fields[1]) - int(fields[2])
    return total * os.sysconf("SC_PAGE_SIZE") / 2**20


def family(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
    return found


def forked(arguments: list[str], deadline: float, mib: float) -> dict[str, Any]:
    """Run one command in a fork, and return the fields of its `Outcome`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            os.setsid()
            for file, number in ((out, 1), (err, 2)):
                os.dup2(file.fileno(), number)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            from slimllm.__main__ import run_command

            try:
                status = run_command(arguments)
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                import traceback

                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        start, base, peak, killed = time.monotonic(), resident([os.getpid()]), 0.0, False
        while True:
            ended, how = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            peak = max(peak, resident(family(pid)) - base)
            if time.monotonic() - start > deadline or peak > mib:
                killed = True
                with contextlib.suppress(OSError):
                    os.killpg(pid, signal.SIGKILL)
            time.sleep(0.01)
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)  # what it left running
        seconds = time.monotonic() - start
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read(10**6).decode("utf-8", "replace"))
        status = KILLED if killed else os.waitstatus_to_exitcode(how)
        return {"status": status, "out": said[0], "err": said[1], "seconds": seconds, "mib": peak}


def main() -> None:
    """Answer jobs from stdin on stdout until stdin ends."""
    sys.path.insert(0, str(ROOT))
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 – loaded before the forks

    import slimllm.cli.main  # noqa: F401

    transformers.utils.logging.set_verbosity_error()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(forked(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
