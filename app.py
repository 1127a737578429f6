"""Starts the page on this machine: `python app.py`, or `python app.py --port 7861 --model PATH`."""

from __future__ import annotations

import sys

from slimllm.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
