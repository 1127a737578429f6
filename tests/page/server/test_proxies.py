"""Behind a proxy: nginx's defaults, Gradio's recipe, a sub-path, each with and without a password, and what
is said where the address is not declared."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slimllm.core.errors import Refusal
from tests.support.servers.reverse_proxies import NGINX, WAYS, Way, nginx, small_proxy
from tests.support.serving import free_port, served
from ui.look.browser_modules import FADERS, module_address, read_modules
from ui.server.address import Address, public_url

HOST, PASSWORD = "slim.example", "open-sesame-open"
pytestmark = pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)")  # Gradio's own


@dataclass
class Visit:
    """A browser at a proxy, as far as its headers go."""

    port: int
    folder: str
    cookie: str = ""
    origin: str = f"http://{HOST}"

    def ask(self, path: str, data: bytes | None = None, kind: str = "application/json") -> Any:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Host": HOST, "Cookie": self.cookie, "Content-Type": kind}
        headers |= {"Origin": self.origin} if data is not None else {}
        line.request("GET" if data is None else "POST", self.folder + path, data, headers)
        return line.getresponse()

    def log_in(self) -> None:
        form = urllib.parse.urlencode({"username": "me", "password": PASSWORD}).encode()
        answer = self.ask("/login", form, "application/x-www-form-urlencoded")
        assert answer.status == 200, answer.read()
        self.cookie = "; ".join(each.split(";")[0] for each in answer.headers.get_all("Set-Cookie"))

    def config(self) -> dict[str, Any]:
        answer = self.ask("/")
        page = answer.read().decode()
        assert answer.status == 200, page
        match = re.search(r"window\.gradio_config = (\{.*?\});</script>", page)
        assert match
        return json.loads(match[1])

    def attach(self, config: dict[str, Any]) -> dict[str, Any]:
        """The answer to the first event of the page."""
        (event,) = (e["id"] for e in config["dependencies"] if any(t[1] == "load" for t in e["targets"]))
        said = {
            "fn_index": event,
            "data": [secrets.token_hex(18), "", None],
            "session_hash": secrets.token_hex(6),
        }
        answer = self.ask("/gradio_api/run/predict", json.dumps(said).encode())
        words = answer.read()
        assert answer.status == 200, words
        return json.loads(words)


@pytest.fixture(scope="module", params=["open", "with a password"])
def upstreams(request: pytest.FixtureRequest, tiny_folder: Path) -> Iterator[dict[str, tuple[str, int]]]:
    """(host, port) of the app by the folder under which it is served; with a password it answers others."""
    more = {} if request.param == "open" else {"listen": True, "auth": ("me", PASSWORD), "host": "127.0.0.2"}
    with ExitStack() as stack:
        found = {}
        for folder in ("", "/slim"):
            port = free_port()
            stack.enter_context(
                served(str(tiny_folder), port=port, public=f"http://{HOST}{folder}", forwarded=True, **more)
            )
            found[folder] = (str(more.get("host", "127.0.0.1")), port)
        yield found


@pytest.mark.parametrize("proxy", ["small", "nginx"])
@pytest.mark.parametrize("name", list(WAYS))
def test_page_behind_a_proxy(
    upstreams: dict[str, tuple[str, int]], name: str, proxy: str, tmp_path: Path
) -> None:
    way: Way = WAYS[name]
    if proxy == "nginx" and not NGINX:
        pytest.skip("no nginx")
    upstream = upstreams[way.folder]
    with small_proxy(upstream, way) if proxy == "small" else nginx(upstream, way, tmp_path) as port:
        visit = Visit(port, way.folder)
        assert visit.ask("/assets/nothing.js").status == 404
        config = visit.config()
        if config.get("auth_required"):
            assert visit.ask("/config").status == 401
            visit.log_in()
            config = visit.config()
        assert config["root"] == f"http://{HOST}{way.folder}"
        answer = visit.attach(config)
        assert "language model" in json.dumps(answer["data"])
        script = visit.ask(f"/{module_address(FADERS)}")
        assert (script.status, script.read()) == (200, read_modules()[module_address(FADERS)])
        assert "immutable" in script.headers["Cache-Control"]


def test_refusals_say_what_to_set(address: str) -> None:
    port = urllib.parse.urlsplit(address).port or 0
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    line.request("GET", "/", headers={"Host": HOST})
    answer = line.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (400, "text/plain; charset=utf-8")
    assert f"--public-url http://{HOST}" in answer.read().decode()
    with small_proxy(("127.0.0.1", port), WAYS["defaults"]) as proxy:
        visit = Visit(proxy, "")
        config = visit.config()
        assert config["root"] == address.rstrip("/")
        answer = visit.ask("/gradio_api/queue/join", b"{}")
        assert answer.status == 403
        assert f"--public-url http://{HOST}" in answer.read().decode()
        page = visit.ask("/").read().decode()
        assert page.index("--public-url") < page.index("data-gradio-mode"), "the page itself says it, too"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("https://Slim.Example/", "https://slim.example"),
        ("http://10.0.0.7:8080/a/slim/", "http://10.0.0.7:8080/a/slim"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_public_address(written: str, meant: str) -> None:
    assert public_url(written) == meant


@pytest.mark.parametrize(
    "written",
    ["", "slim.example", "ftp://slim.example", "http://", "http://a b/", "http://me:pw@slim.example", "http://a/?x=1",
     "http://a/../b", "http://a//b", "http://a:99999", "http://[::1", "http://a/#x", "http://a/é"],
)  # fmt: skip
def test_what_is_no_public_address_is_refused(written: str) -> None:
    with pytest.raises(Refusal, match="--public-url"):
        public_url(written)


def test_who_asks_is_believed_of_a_proxy_only_where_that_is_said() -> None:
    forged = {"x-forwarded-for": "1.2.3.4, 10.0.0.9"}
    assert Address().place(("127.0.0.1", 1), forged) == "127.0.0.1"
    assert Address(forwarded=True).place(("127.0.0.1", 1), forged) == "10.0.0.9", "the last one, by the proxy"
    for strange in ("", "evil", "1.2.3.4,", "1.2.3.4, é"):
        assert Address(forwarded=True).place(("127.0.0.1", 1), {"x-forwarded-for": strange}) == "127.0.0.1"
    assert Address(forwarded=True).place(("127.0.0.1", 1), {}) == "127.0.0.1"


def test_a_declared_address_lets_in_no_other_page() -> None:
    address = Address(public="https://slim.example/slim")
    assert not address.unknown_host({"host": "slim.example"})
    assert not address.unknown_host({"host": "127.0.0.1:7860"})
    assert address.unknown_host({"host": "evil.example"})
    assert not address.foreign({"host": "127.0.0.1:7860", "origin": "https://slim.example"})
    for origin in (
        "http://slim.example",
        "https://slim.example.evil.example",
        "https://evil.example",
        "null",
    ):
        forged = {"host": "127.0.0.1:7860", "origin": origin, "x-forwarded-host": "evil.example"}
        assert address.foreign(forged), origin
    assert address.inside("/slim/config") == "/config"
    assert address.inside("/slimmer/config") == "/slimmer/config"
