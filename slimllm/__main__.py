"""The entry point of `python -m slimllm`."""

import atexit
import os
import sys


def run_command(arguments: list[str]) -> int:
    """Run a command and return its exit status, 130 if it is interrupted while the libraries are loaded."""
    try:
        from slimllm.cli.main import main

        return main(arguments)
    except KeyboardInterrupt:
        print("slimllm: cancelled before it began; nothing was changed.", file=sys.stderr)
        return 130


def end_program(status: int) -> None:
    """End the program with an exit status.

    A cancelled program (status 130) ends at once. If Ctrl-C met code compiled from a string, as some
    libraries run it, Python would die of the signal whatever status we return, and with a thread inside torch
    it would dump core.
    """
    if status == 130:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    end_program(run_command(sys.argv[1:]))
