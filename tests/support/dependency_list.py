"""Rewrite the tables of docs/dependencies.md: every package of a fresh install, with version and licence.

`make lock` runs this after requirements.lock is made. A package that is not installed here, because only
another system or a newer Python needs it, is downloaded by pip.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOCK, DIRECT, PAGE = "requirements.lock", "requirements.txt", "docs/dependencies.md"
# What stands above this line of the page is written by hand.
MARK = "## Named by this program\n"
PIN = re.compile(r"([A-Za-z][\w.-]*)==([^\s;]+)")
# The most letters of a licence's name; what is longer is its text.
LONGEST_NAME = 60


@dataclass(frozen=True)
class Pin:
    """A package at one version. `condition` says where it is installed; if it is empty, everywhere.
    `parents` are the packages that need it."""

    name: str
    version: str
    condition: str = ""
    parents: tuple[str, ...] = ()


def plain_name(name: str) -> str:
    """Return a package's name as the index writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(text: str) -> list[Pin]:
    """Return the packages of a lock file as uv writes it."""
    found = []
    # A package begins at the margin; its hashes and what needs it are indented.
    for block in re.split(r"\n(?=[A-Za-z])", text):
        if pin := PIN.match(block):
            first = block.splitlines()[0].rstrip(" \\")
            comments = re.findall(r"^ +# +(?:via +)?(\S.*)$", block, re.MULTILINE)
            parents = [words for words in comments if words != "via" and not words.startswith("-r ")]
            found.append(Pin(plain_name(pin[1]), pin[2], first.partition(" ; ")[2], tuple(parents)))
    return found


def read_direct(text: str) -> dict[str, tuple[str, str]]:
    """Return (version, what it is for) of every package in requirements.txt, by name."""
    lines = [line.partition(" # ") for line in text.splitlines()]
    pins = [(PIN.match(pin), purpose) for pin, _, purpose in lines]
    return {plain_name(pin[1]): (pin[2], purpose) for pin, purpose in pins if pin}


def read_metadata(pins: Iterable[Pin]) -> dict[str, dict[str, Any]]:
    """Return the metadata of packages by name: of those installed here, and of the others from the index.

    Raise `CalledProcessError` if the index does not have one of them, and `ValueError` if what is installed
    here has another version than the lock.
    """
    found: dict[str, dict[str, Any]] = {}
    absent = []
    for pin in pins:
        try:
            installed = metadata.metadata(pin.name)
        except metadata.PackageNotFoundError:
            absent.append(f"{pin.name}=={pin.version}")
        else:
            # torch names its build, such as 2.13.0+cpu.
            if installed["Version"].partition("+")[0] != pin.version:
                raise ValueError(f"{pin.name} {pin.version} is locked but not installed; run make run first.")
            found[pin.name] = installed.json
    return found | (ask_index(absent) if absent else {})


def ask_index(wanted: list[str]) -> dict[str, dict[str, Any]]:
    """Return the metadata of packages from the index, by name, whatever Python they are for."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--no-deps", "--only-binary=:all:", "--python-version=3.14", "--ignore-requires-python"]
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", *options, "-d", folder, *wanted], check=True
        )
        wheels = [str(wheel) for wheel in Path(folder).glob("*.whl")]
        facts = [found.metadata.json for found in metadata.distributions(path=wheels)]
    return {plain_name(str(found["name"])): found for found in facts}


def name_licence(facts: dict[str, Any]) -> str:
    """Return a package's licence as it states it; raise `ValueError` if it states none."""
    classes = [words for words in facts.get("classifier", ()) if words.startswith("License :: ")]
    named = " / ".join(words.rpartition(" :: ")[2] for words in classes)
    stated = facts.get("license", "")
    short = stated if len(stated) <= LONGEST_NAME and "\n" not in stated else ""
    licence = facts.get("license_expression") or named or short
    if not licence:
        raise ValueError(f"{facts['name']} names no licence; look it up and name it here.")
    return str(licence)


def write_tables(pins: list[Pin], direct: dict[str, tuple[str, str]], licences: dict[str, str]) -> str:
    """Return the tables: what this program names itself, and what that brings along."""
    lines = [MARK, "| package | version | licence | what for |", "|---|---|---|---|"]
    for name, (version, purpose) in sorted(direct.items()):
        lines.append(f"| {name} | {version} | {licences[name]} | {purpose} |")
    lines += ["", "## Brought along\n", "| package | version | licence | needed by |", "|---|---|---|---|"]
    for pin in pins:
        if pin.name not in direct:
            lines.append(f"| {pin.name} | {pin.version} | {licences[pin.name]} | {', '.join(pin.parents)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the tables of docs/dependencies.md."""
    pins = read_lock((ROOT / LOCK).read_text(encoding="utf-8"))
    direct = read_direct((ROOT / DIRECT).read_text(encoding="utf-8"))
    named = [Pin(name, version) for name, (version, _) in direct.items()]
    facts = read_metadata({pin.name: pin for pin in [*pins, *named]}.values())
    licences = {name: name_licence(found) for name, found in facts.items()}
    page = ROOT / PAGE
    written = page.read_text(encoding="utf-8").partition(MARK)[0]
    page.write_text(written + write_tables(pins, direct, licences), encoding="utf-8")


if __name__ == "__main__":
    main()
