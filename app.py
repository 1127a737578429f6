"""Starts the page on this machine: `python app.py`, or `python app.py --port 7861 --model PATH`."""

from __future__ import annotations

import sys

from slimllm.__main__ import end_program, run_command

if __name__ == "__main__":
    end_program(run_command(["serve", *sys.argv[1:]]))
