"""Starts the page on this machine: `python app.py`, or `python app.py --port 7861 --model PATH`."""

from __future__ import annotations

import os
import sys

# Waiting threads should sleep: spinning ones made torch 16 times slower on 2 cores that a browser used, too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from slimllm.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
