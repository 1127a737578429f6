"""Starts the page on this machine: `python app.py`, or `python app.py --port 7861 --model PATH`."""

from __future__ import annotations

import sys

from slimllm.__main__ import leave, run

if __name__ == "__main__":
    leave(run(["serve", *sys.argv[1:]]))
