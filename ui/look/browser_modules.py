"""The scripts of the page that are ES modules, each at an address that tells their version.

They import each other by relative addresses; the version is a folder of the address, so that an imported file
is of the same version as the one that imports it, and no copy that a browser kept of another.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256

from ui.look.theme import ASSETS

MODULES = "modules"  # beside the page
FADERS = "faders/main.js"


@cache
def read_modules() -> dict[str, bytes]:
    """The modules by their addresses, relative to the page's."""
    files = {f"faders/{file.name}": file.read_bytes() for file in sorted((ASSETS / "faders").glob("*.js"))}
    version = sha256(repr(files).encode()).hexdigest()[:16]
    return {f"{MODULES}/{version}/{name}": script for name, script in files.items()}


def module_address(name: str) -> str:
    """The address of a module, relative to the page's."""
    return next(address for address in read_modules() if address.endswith(f"/{name}"))
