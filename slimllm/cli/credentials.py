"""The user and password of the app: from a file, the environment or the command line, only one of them."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from pathlib import Path

from slimllm.core.errors import Refusal

VARIABLE = "SLIMLLM_AUTH"
# The most bytes of a file of credentials.
LONGEST_LINE = 1_000
# The mode bits that give other accounts access to such a file.
OTHERS = 0o077


def find_credentials(
    given: str | None, file: Path | None, environment: MutableMapping[str, str]
) -> tuple[tuple[str, str] | None, str]:
    """Return ((user, password) or None if none was given, a warning or an empty string).

    The variable is removed from the environment, so that no child process sees it. Raise `Refusal` if there
    is more than one source, or if the source is not valid.
    """
    variable = environment.pop(VARIABLE, "")
    sources = {"--auth": given, "--auth-file": file, VARIABLE: variable}
    named = [name for name, value in sources.items() if value]
    if not named:
        return None, ""
    if len(named) > 1:
        raise Refusal(f"The password is given twice, by {' and '.join(named)}; keep one of them.")
    words, warning = read_credentials(file) if file else (given or variable, "")
    user, _, password = words.partition(":")
    if not (user and password):
        raise Refusal(f"{named[0]} must hold USER:PASSWORD, both parts non-empty.")
    return (user, password), warning


def read_credentials(file: Path) -> tuple[str, str]:
    """Return (the first line of a file, a warning if other accounts can read it or an empty string).

    Raise `Refusal` if the file cannot be read or does not hold exactly one line.
    """
    try:
        if not file.is_file():
            raise FileNotFoundError(2, "No such file")
        with file.open("rb") as opened:
            words = opened.read(LONGEST_LINE + 1).decode("utf-8")
        mode = file.stat().st_mode
    except (OSError, ValueError) as failure:
        reason = getattr(failure, "strerror", None) or "it is no text"
        raise Refusal(
            f"'{file}' cannot be read ({reason}); write USER:PASSWORD into a file of your own."
        ) from None
    lines = words.strip().splitlines()
    if len(words) > LONGEST_LINE or len(lines) != 1:
        raise Refusal(f"'{file}' must hold one line, USER:PASSWORD.")
    # Windows reports the same bits for every file; who may read it is in its access list.
    open_to_others = sys.platform != "win32" and mode & OTHERS
    warning = f"Other accounts of this machine can read '{file}'; take that from them: chmod 600 {file}"
    return lines[0].strip(), warning if open_to_others else ""
