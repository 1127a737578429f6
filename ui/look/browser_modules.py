"""Give every ES module of the page an address that contains the version of all modules.

The modules import each other by relative addresses. The version is a folder of the address, so an imported
file always has the same version as the file that imports it. The browser never uses a cached copy of another
version.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256

from ui.look.theme import ASSETS

MODULES = "modules"  # a folder beside the page
FADERS = "faders/main.js"


@cache
def read_modules() -> dict[str, bytes]:
    """Return the modules by their addresses, relative to the page's."""
    files = {f"faders/{file.name}": file.read_bytes() for file in sorted((ASSETS / "faders").glob("*.js"))}
    version = sha256(repr(files).encode()).hexdigest()[:16]
    return {f"{MODULES}/{version}/{name}": script for name, script in files.items()}


def module_address(name: str) -> str:
    """Return the address of a module, relative to the page's."""
    return next(address for address in read_modules() if address.endswith(f"/{name}"))
