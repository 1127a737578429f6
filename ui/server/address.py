"""Under which names and addresses the page may be asked for, also behind a proxy. No Gradio."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from slimllm.core.errors import Refusal

HERE = ("127.0.0.1", "localhost", "[::1]", "::1")
HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:\d{1,5})?", re.I)  # of a Host header
SEVERAL = re.compile(r"\s*,\s*")


def public_url(words: str) -> str:
    """The address under which visitors see the page, without a slash at the end; a `Refusal` for what is
    none."""
    advice = "write it as visitors do, for example https://slim.example or http://10.0.0.7/slim"
    try:
        parts = urlsplit(words)
        proper = parts.scheme in ("http", "https") and HOST.fullmatch(parts.netloc)
        plain = not (parts.query or parts.fragment) and re.fullmatch(r"[\w./~-]*", parts.path, re.ASCII)
        parts.port  # noqa: B018 (a ValueError for one that is none)
    except ValueError:
        proper = plain = None
    if not (proper and plain) or ".." in parts.path or "//" in parts.path:
        raise Refusal(f"--public-url '{words}' is no address of a page; {advice}.")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


@dataclass(frozen=True)
class Address:
    """How the server can be reached. `listen`: by other machines, under whatever name; `public`: the address
    at which a proxy serves it, empty where there is none; `forwarded`: whether the proxy tells in
    X-Forwarded-For who asks, and is believed."""

    listen: bool = False
    public: str = ""
    forwarded: bool = False

    @property
    def prefix(self) -> str:
        """The path of the page at its proxy, such as /slim; empty for the whole of a site."""
        return urlsplit(self.public).path

    @property
    def proxied(self) -> bool:
        """Whether a proxy's word is taken for the name under which it was asked. Only a server for this
        machine may do so: browsers ask it before they send such a header from another site's page, and Gradio
        says no; on any other server it says yes to everybody. Where the address is declared, nobody's word
        is needed."""
        return not self.listen and not self.public

    def unknown_host(self, headers: Mapping[str, str]) -> str:
        """Why the server does not answer under the name that it was asked by; empty where it does. Answered
        under any name, it could be asked by a page whose own name leads to this machine."""
        host = headers.get("host", "")
        match = HOST.fullmatch(host)
        if match is None:
            return "The request does not say properly which host it asks."
        known = {*HERE, urlsplit(self.public).netloc, urlsplit(f"//{urlsplit(self.public).netloc}").hostname}
        if self.listen or match[1].lower() in known or host.lower() in known:
            return ""
        return (
            f"This server does not answer to the name {host}. If a proxy serves it under that name, start it "
            f"with --public-url http://{host} (the address as visitors see it)."
        )

    def foreign(self, headers: Mapping[str, str]) -> str:
        """Why a request that a browser sends for another site's page is turned away; empty for any other.
        Programs say nothing of the kind."""
        origin = headers.get("origin")
        if origin is None:
            cross = headers.get("sec-fetch-site") == "cross-site"
            cross = cross and headers.get("sec-fetch-mode") != "navigate"
            return "This request comes from another site's page." if cross else ""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return "This request does not say properly which page it comes from."
        names = ("host", "x-forwarded-host") if self.proxied else ("host",)
        ours = {headers.get(name, "").lower() for name in names} - {""}
        if parts.netloc.lower() in ours or (self.public and origin.lower() == origin_of(self.public)):
            return ""
        if not HOST.fullmatch(parts.netloc):
            return "This request comes from another site's page."
        return (
            f"This request comes from a page at {origin}, which is not the address of this server. If a "
            f"proxy serves it there, start it with --public-url {origin} (and the path, if it has one)."
        )

    def place(self, client: tuple[str, int] | None, headers: Mapping[str, str]) -> str:
        """Where a request comes from: the address of the connection, or the last one that a proxy which is
        believed added. What stands before it, the visitor may have written."""
        if self.forwarded:
            last = SEVERAL.split(headers.get("x-forwarded-for", "").strip())[-1]
            try:
                return str(ipaddress.ip_address(last.strip("[]")))
            except ValueError:
                pass
        return client[0] if client else "nowhere"

    def inside(self, path: str) -> str:
        """The path without the proxy's prefix, which some proxies take away and some leave."""
        if self.prefix and path.startswith(self.prefix + "/"):
            return path.removeprefix(self.prefix)
        return path

    def telling(self, name: str, value: str) -> bool:
        """Whether a header of the request may reach Gradio, which builds its links of what proxies say."""
        if name == "x-gradio-server":
            return False
        if name == "x-forwarded-host":
            return self.proxied and all(map(HOST.fullmatch, SEVERAL.split(value)))
        if name == "x-forwarded-proto":
            return value in ("http", "https")
        return True


def origin_of(url: str) -> str:
    """The origin of an address, as browsers tell it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".removesuffix({"http": ":80", "https": ":443"}[parts.scheme])
