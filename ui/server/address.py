"""Check the names and addresses under which the page is requested, also behind a proxy. No Gradio."""

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
    """Return the address under which visitors see the page, without a slash at the end.

    Raise a `Refusal` where `words` is no such address.
    """
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
    """How the server can be reached.

    `listen` says that other machines may reach it, under any name. `public` is the address at which a proxy
    serves it, or empty. `forwarded` says that the proxy names the visitor's address in X-Forwarded-For and is
    trusted. `inner` says that the host has further proxies behind it, in a private network, which also add an
    address.
    """

    listen: bool = False
    public: str = ""
    forwarded: bool = False
    inner: bool = False

    @property
    def prefix(self) -> str:
        """The path of the page at its proxy, such as /slim; empty where the page is a whole site."""
        return urlsplit(self.public).path

    @property
    def proxied(self) -> bool:
        """Whether the server trusts a proxy that says under which name it was requested.

        Only a server for this machine may trust it. A browser asks that server before it sends such a header
        from another site's page, and Gradio denies it; on any other server, Gradio permits it to everybody.
        Where the public address is declared, the server needs no such header.
        """
        return not self.listen and not self.public

    def unknown_host(self, headers: Mapping[str, str]) -> str:
        """Return why the server does not answer under the requested host name; empty where it does.

        A server that answered under any name could be reached by a page whose own name resolves to this
        machine.
        """
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
        """Return why a browser's request for another site's page is turned away; empty for any other request.

        Programs send no such headers.
        """
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
        """Return where a request comes from: the address of the connection, or the one that the proxy names.

        Only the last address in X-Forwarded-For counts, because the visitor may have written those before it.
        With inner proxies it is the last one that is not in a private network.
        """
        if self.forwarded:
            named = SEVERAL.split(headers.get("x-forwarded-for", "").strip())
            found = [proper_address(words) for words in reversed(named)]
            if self.inner:
                found = [one for one in found if one is None or not one.is_private] or found
            if found[0] is not None:
                return str(found[0])
        return client[0] if client else "nowhere"

    def inside(self, path: str) -> str:
        """Return the path without the proxy's prefix, which some proxies remove and some keep."""
        if self.prefix and path.startswith(self.prefix + "/"):
            return path.removeprefix(self.prefix)
        return path

    def telling(self, name: str, value: str) -> bool:
        """Return whether a header may reach Gradio, which builds its links from what proxies say."""
        if name == "x-gradio-server":
            return False
        if name == "x-forwarded-host":
            return self.proxied and all(map(HOST.fullmatch, SEVERAL.split(value)))
        if name == "x-forwarded-proto":
            return value in ("http", "https")
        return True


def proper_address(words: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that somebody wrote into a header, or None if it is none."""
    try:
        return ipaddress.ip_address(words.strip("[]"))
    except ValueError:
        return None


def origin_of(url: str) -> str:
    """Return the origin of an address in the form that browsers send."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".removesuffix({"http": ":80", "https": ":443"}[parts.scheme])
