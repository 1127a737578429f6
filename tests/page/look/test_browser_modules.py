"""The page's ES modules: one version for all that import each other, and all that is imported is there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import pytest

from ui.look import browser_modules
from ui.look.browser_modules import FADERS, MODULES, module_address, read_modules
from ui.page.faders import MOUNT

IMPORTED = re.compile(r"^import .*?from '(.+?)';$", re.MULTILINE | re.DOTALL)


def test_modules_import_only_modules_of_their_own_version() -> None:
    modules = read_modules()
    versions = {address.split("/")[1] for address in modules}
    assert len(versions) == 1
    reached, left = set(), [module_address(FADERS)]
    while left:
        address = left.pop()
        reached.add(address)
        for name in IMPORTED.findall(modules[address].decode()):
            left += {posixpath.normpath(posixpath.join(posixpath.dirname(address), name))} - reached
    assert reached == set(modules), "each is imported by another one"


def test_the_page_imports_the_entry_beside_itself() -> None:
    assert f"import(new URL('{module_address(FADERS)}', document.baseURI))" in MOUNT
    assert module_address(FADERS).startswith(f"{MODULES}/")


def test_another_content_has_another_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faders").mkdir()
    monkeypatch.setattr(browser_modules, "ASSETS", tmp_path)
    found = []
    for content in ("one", "two"):
        (tmp_path / "faders" / "main.js").write_text(content)
        read_modules.cache_clear()
        found.append(module_address(FADERS))
    read_modules.cache_clear()
    assert found[0] != found[1]
