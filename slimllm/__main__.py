"""`python -m slimllm`."""

import sys


def run(arguments: list[str]) -> int:
    """The exit status of a command, also of one that is interrupted while the libraries are loaded."""
    try:
        from slimllm.cli import main

        return main(arguments)
    except KeyboardInterrupt:
        print("slimllm: cancelled before it began; nothing was changed.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
