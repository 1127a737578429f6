"""How long browser tests wait for what must come, in milliseconds. A slow machine takes a multiple of it:
`SLIMLLM_TEST_PATIENCE=3 make test-all`."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("SLIMLLM_TEST_PATIENCE", "1"))
# Other programs may keep the machine busy: an answer takes a second, and the jobs of the tests a few.
ANSWER = 15_000 * FACTOR
JOB = 60_000 * FACTOR
