"""The lock holds what requirements.txt names, by hash and for every machine, and the list its licences."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.markers import Marker
from packaging.version import Version

from tests.support import dependency_list

ROOT = Path(__file__).parents[2]
# Their builds depend on the machine (docs/dependencies.md).
OF_A_BUILD = re.compile(r"torch|triton|cuda-.*|nvidia-.*")


def content(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def locked() -> dict[str, dependency_list.Pin]:
    return {pin.name: pin for pin in dependency_list.read_lock(content("requirements.lock"))}


def direct() -> dict[str, tuple[str, str]]:
    return dependency_list.read_direct(content("requirements.txt"))


def rows() -> list[list[str]]:
    """The cells of the list's tables, without their heads."""
    tables = content("docs/dependencies.md").partition(dependency_list.MARK)[2]
    lines = [line.strip("| ").split(" | ") for line in tables.splitlines() if line.startswith("| ")]
    return [cells for cells in lines if cells[0] != "package"]


def test_the_lock_has_every_pinned_package_in_the_same_version() -> None:
    assert len(direct()) == 13
    for name, (version, _) in direct().items():
        if name != "torch":
            assert locked()[name] == dependency_list.Pin(name, version, parents=locked()[name].parents)


def test_the_lock_has_all_that_its_packages_need() -> None:
    assert len(locked()) > 60
    known = {*locked(), "torch"}
    for pin in locked().values():
        assert pin.parents or pin.name in direct(), pin
        assert {*pin.parents} <= known, pin


def test_every_locked_package_has_hashes_and_nothing_else() -> None:
    lines = [line for line in content("requirements.lock").splitlines() if not re.match(" *(#|$)", line)]
    for line, after in zip(lines, [*lines[1:], "end"], strict=True):
        assert re.fullmatch(r"[a-z][\w.-]*==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line
        assert line.endswith("\\") == after.startswith("    --hash"), line


def test_the_lock_is_made_from_the_index_by_the_command_of_make_lock() -> None:
    head = content("requirements.lock").splitlines()[1].removeprefix("#    ")
    recipe = content("Makefile").replace("\\\n\t\t", "").replace("pip compile -q", "pip compile")
    assert f"$(BIN)/{head} $(ARGS)\n" in recipe
    assert not re.search(r"https?:|file:|--index|--find-links|/(?!/)[a-z]+/", content("requirements.lock"))


def test_what_depends_on_the_build_of_torch_is_not_locked() -> None:
    assert not [name for name in locked() if OF_A_BUILD.fullmatch(name)]


def test_conditions_of_the_lock_hold_for_each_python_and_system() -> None:
    machines = [
        {"sys_platform": system, "platform_machine": machine, "python_full_version": f"{python}.0"}
        for system, machine in (
            ("linux", "x86_64"),
            ("linux", "aarch64"),
            ("win32", "AMD64"),
            ("darwin", "arm64"),
        )
        for python in ("3.11", "3.12", "3.13", "3.14")
    ]
    for pin in locked().values():
        wanted = [not pin.condition or Marker(pin.condition).evaluate(machine) for machine in machines]
        for machine, here in zip(machines, wanted, strict=True):
            late = Version(machine["python_full_version"]) >= Version("3.13")
            needed = {"audioop-lts": late, "colorama": machine["sys_platform"] == "win32"}
            assert here == needed.get(pin.name, True), (pin, machine)


def test_the_list_of_licences_has_every_package() -> None:
    versions = {pin.name: pin.version for pin in locked().values()}
    versions |= {name: version for name, (version, _) in direct().items()}
    assert {cells[0]: cells[1] for cells in rows()} == versions
    assert len(rows()) == len(versions)
    for name, _, licence, purpose in rows():
        assert licence, name
        assert purpose, name
        if name in direct():
            assert purpose == direct()[name][1]


def test_no_licence_forbids_what_this_programs_licence_permits() -> None:
    for name, _, licence, _ in rows():
        assert not re.search(r"GPL|General Public|Proprietary|Commercial|Unknown", licence, re.I), name


def test_licences_are_read_from_what_a_package_states() -> None:
    name = dependency_list.name_licence
    assert name({"license_expression": "MIT", "license": "BSD"}) == "MIT"
    classes = ["Topic :: Text", "License :: OSI Approved :: MIT License"]
    assert name({"classifier": classes, "license": "x\n" * 99}) == "MIT License"
    assert name({"license": "BSD-3-Clause"}) == "BSD-3-Clause"
