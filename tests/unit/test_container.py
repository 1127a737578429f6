"""The Dockerfile copies what exists, starts what the program knows, and does what the README says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from slimllm.cli import credentials, main
from tests.support.serving import free_port, served
from ui.app import Settings

ROOT = Path(__file__).parents[2]
PASSWORD = "a-long-password"


def content(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each as its word and the rest."""
    text = re.sub(r"^#.*\n", "", content("Dockerfile"), flags=re.MULTILINE).replace("\\\n", "")
    pairs = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, _, rest in pairs]


def rest_of(word: str) -> list[str]:
    """What follows this word, at each of its places."""
    return [rest for found, rest in steps() if found == word]


def variables() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in rest_of("ENV") for pair in rest.split())


def copied() -> list[str]:
    return [name for rest in rest_of("COPY") for name in rest.split()[:-1]]


def listed(mark: str) -> list[str]:
    """The lines of .dockerignore that begin with a mark, without it."""
    return [
        line.removeprefix(mark) for line in content(".dockerignore").splitlines() if line.startswith(mark)
    ]


def started() -> list[str]:
    (entry,) = rest_of("ENTRYPOINT")
    return list(json.loads(entry))


def health_check() -> list[str]:
    (check,) = rest_of("HEALTHCHECK")
    return list(json.loads(check.partition("CMD ")[2]))


def command_in_readme(verb: str) -> list[str]:
    (line,) = re.findall(rf"^docker {verb} .*$", content("README.md"), re.MULTILINE)
    return shlex.split(line)


def test_everything_that_is_copied_exists_and_is_let_through() -> None:
    passed = listed("!")
    for name in copied():
        assert (ROOT / name).exists(), name
        assert any(one == name or one.startswith(f"{name}/") for one in passed), name
    for name in passed:
        assert (ROOT / name).exists(), name
        assert any(name == one or name.startswith(f"{one}/") for one in copied()), name
    assert "*" in content(".dockerignore").splitlines()


def test_the_whole_program_is_copied() -> None:
    stated = tomllib.loads(content("pyproject.toml"))["tool"]["setuptools"]
    tops = {name.split(".")[0] for name in stated["packages"]}
    assert tops < {*copied()}
    folders = {f"assets/{kind.partition('/')[0]}" for kind in stated["package-data"]["ui.assets"]}
    assert folders == {name for name in listed("!") if name.startswith("assets")}


def test_every_file_of_requirements_is_copied_before_it_is_read() -> None:
    known: set[str] = set()
    for word, rest in steps():
        if word == "COPY":
            known |= {*rest.split()[:-1]}
        if word == "RUN":
            assert {*re.findall(r"requirements[\w.-]*", rest)} <= known, rest


def test_the_build_argument_chooses_the_index_of_torch_and_nothing_else() -> None:
    assert rest_of("ARG") == ["TORCH_INDEX=https://download.pytorch.org/whl/cpu"]
    lines = [part for rest in rest_of("RUN") for part in rest.split(" && ")]
    (using,) = [line for line in lines if "TORCH_INDEX" in line]
    pattern = re.fullmatch(
        r"""python -m pip install --index-url "\$TORCH_INDEX" "\$\(grep -o '(.+)' (\S+)\)\"""", using
    )
    assert pattern
    (found,) = re.findall(pattern[1], content(pattern[2]), re.MULTILINE)
    assert re.fullmatch(r"torch==[\d.]+", found)
    assert "TORCH_INDEX=https://download.pytorch.org/whl/" in content("README.md")


def test_it_is_built_on_the_lowest_python_that_the_program_takes() -> None:
    (image,) = rest_of("FROM")
    minor = re.match(r"python:3\.(\d+)-slim", image)
    assert minor
    assert tomllib.loads(content("pyproject.toml"))["project"]["requires-python"] == f">=3.{minor[1]}"


def test_it_listens_to_other_machines_at_the_port_that_is_declared() -> None:
    program, file, *options = started()
    assert (program, file) == ("python", "app.py")
    given = main.build_parser().parse_args(["serve", *options])
    settings = Settings(host=given.host, port=given.port, listen=given.listen)
    assert settings.server == "0.0.0.0"
    assert rest_of("EXPOSE") == [str(settings.port)]
    assert f"http://127.0.0.1:{settings.port}'" in health_check()[-1]
    assert rest_of("STOPSIGNAL") == ["SIGINT"]


def test_it_runs_as_a_user_and_keeps_everything_in_the_volume() -> None:
    (user,), (volume,) = rest_of("USER"), rest_of("VOLUME")
    assert int(user) > 0
    assert any(f"useradd --create-home --uid {user} " in rest for rest in rest_of("RUN"))
    assert any(f"chown {user} {volume}" in rest for rest in rest_of("RUN"))
    for name in ("SLIMLLM_HOME", "HF_HOME"):
        assert variables()[name].startswith(f"{volume}/"), name
    given = main.build_parser().parse_args(["serve", *started()[2:]])
    assert given.root == [Path(volume)]


def test_the_lines_of_the_readme_build_and_run_it() -> None:
    _, _, flag, tag, folder = command_in_readme("build")
    assert (flag, folder) == ("-t", ".")
    *options, image = command_in_readme("run")[2:]
    assert image == tag
    stated = dict(zip(options[::2], options[1::2], strict=True))
    (port,), (volume,) = rest_of("EXPOSE"), rest_of("VOLUME")
    assert stated == {
        "-p": f"127.0.0.1:{port}:{port}",
        "-v": f"{tag}:{volume}",
        "-e": f"{credentials.VARIABLE}=USER:PASSWORD",
    }


def check_health(port: int) -> int:
    """Return the exit status of the health check, asked of another port."""
    program, flag, code = health_check()
    assert (program, flag) == ("python", "-c")
    assert rest_of("EXPOSE")[0] in code
    asked = code.replace(rest_of("EXPOSE")[0], str(port))
    return subprocess.run([sys.executable, flag, asked], capture_output=True, timeout=60).returncode


@pytest.mark.slow
def test_the_health_check_needs_an_answer_and_no_password(tiny_folder: Path) -> None:
    with served(str(tiny_folder), auth=("me", PASSWORD), listen=True) as address:
        assert check_health(int(address.rstrip("/").rpartition(":")[2])) == 0
    assert check_health(free_port()) != 0
