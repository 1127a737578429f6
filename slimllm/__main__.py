"""`python -m slimllm`."""

import atexit
import os
import sys


def run_command(arguments: list[str]) -> int:
    """The exit status of a command, also of one that is interrupted while the libraries are loaded."""
    try:
        from slimllm.cli.main import main

        return main(arguments)
    except KeyboardInterrupt:
        print("slimllm: cancelled before it began; nothing was changed.", file=sys.stderr)
        return 130


def end_program(status: int) -> None:
    """Ends the program; a cancelled one at once. Where Ctrl-C met code made of a string, as libraries do,
    Python would die of the signal whatever we return, and with a thread inside torch in a core dump."""
    if status == 130:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    end_program(run_command(sys.argv[1:]))
