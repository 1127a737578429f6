"""Each promise about safety, tried against the real app or the real reader."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from slimllm.calibration import texts
from slimllm.cli import main
from slimllm.core.errors import Refusal, one_line
from slimllm.export import checkpoint, model_inspection
from slimllm.files import paths, starter_kit
from slimllm.models import loading
from tests.support.forged_events import Forger
from tests.support.serving import served
from tests.support.tiny_models import PAGE, tiny_model, tiny_tokenizer
from ui.app import Settings, check_settings, declare_roots, launch_options
from ui.look.browser_modules import FADERS, module_address
from ui.server import access, request_limits
from ui.server.address import Address
from ui.server.request_limits import Turned

ROOT = Path(__file__).parents[3]
OURS = sorted(
    (
        *(file for top in ("slimllm", "ui", "benchmarks") for file in ROOT.glob(f"{top}/**/*.py")),
        ROOT / "app.py",
    )
)
TOKEN = "hf_" + "SecretMarker0123456789"
PASSWORD = "open-sesame-open"
pytestmark = pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword)")  # Gradio's own


def ask(
    address: str, data: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, bytes]:
    """(status, body) of a request; underscores in the names of headers are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(address, data, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


@pytest.fixture(scope="module")
def forger(address: str) -> Forger:
    return Forger(address)


# Who is answered --------------------------------------------------------------------------------------------


def test_security_other_host_names_are_not_answered(address: str) -> None:
    assert ask(address)[0] == 200
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "0.0.0.0", ""):
        assert ask(address, Host=host)[0] == 400, host
    assert ask(f"{address}monitoring/summary")[0] == 404


def test_security_other_sites_pages_are_turned_away(address: str) -> None:
    own = address.rstrip("/")
    join, said = f"{address}gradio_api/queue/join", json.dumps({"data": [], "fn_index": 0}).encode()
    for origin in ("http://evil.example", "null", "http://localhost:1", own + ".evil.example"):
        for where, data in ((join, said), (f"{address}gradio_api/upload", b"x"), (f"{address}config", None)):
            assert ask(where, data, Origin=origin, Content_Type="text/plain")[0] == 403, (origin, where)
    for mode, status in (("no-cors", 403), ("cors", 403), ("navigate", 200)):
        assert ask(address, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode=mode)[0] == status
    assert ask(f"{address}config", Origin=own)[0] == 200
    behind = {"Origin": "https://slim.example", "X_Forwarded_Host": "slim.example"}
    assert ask(f"{address}config", **behind)[0] == 200
    assert ask(f"{address}config", **{**behind, "Origin": "https://evil.example"})[0] == 403
    assert ask(f"{address}config", Origin="null", X_Forwarded_Host="")[0] == 403
    assert ask(f"{address}config", Origin="null", X_Forwarded_Host="null")[0] == 403


def test_security_no_page_of_another_site_can_pretend_to_be_a_proxy(address: str) -> None:
    """Browsers ask before they send a header that is none of theirs: here no other site gets a yes, and where
    everybody does, on a server for others, that header says nothing."""
    asking = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-forwarded-host",
    }
    assert ask(f"{address}config", method="OPTIONS", **asking)[0] == 403
    mine = {"host": "slim.example", "origin": "https://evil.example", "x-forwarded-host": "evil.example"}
    assert Address(listen=True).foreign(mine)
    assert Address().foreign({**mine, "x-forwarded-host": "slim.example"})
    assert not Address().foreign(mine)
    assert Address(public="https://slim.example").foreign(mine)
    assert not Settings(listen=True).address.proxied
    assert ask(f"{address}config", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc")
def test_security_only_this_machine_can_connect(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SHARE", "True")
    with served(str(tiny_folder)) as address:
        port = f"{urllib.parse.urlsplit(address).port:04X}"
        rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")]
        assert listening == [f"0100007F:{port}"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(host="0.0.0.0"), "--listen"),
        (Settings(host="192.168.1.7"), "--listen"),
        (Settings(host="0.0.0.0", listen=True), "password"),
        (Settings(listen=True), "password"),
        (Settings(listen=True, auth=("me", "short")), "8 characters"),
    ],
)
def test_security_nobody_else_is_served_without_a_password(settings: Settings, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        check_settings(settings)
    assert launch_options(Settings())["server_name"] == "127.0.0.1"


@pytest.fixture
def locked(tiny_folder: Path) -> Iterator[str]:
    """The address of an app with a password."""
    with served(str(tiny_folder), auth=("me", PASSWORD)) as address:
        yield address


def log_in(address: str, password: str) -> int:
    form = urllib.parse.urlencode({"username": "me", "password": password}).encode()
    return ask(f"{address}login", form)[0]


def test_security_password_covers_everything_and_is_locked_after_wrong_ones(locked: str) -> None:
    said = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    for path, data in {
        "config": None,
        "gradio_api/info": None,
        "gradio_api/queue/join": said,
        "gradio_api/upload": b"x",
        "gradio_api/component_server": said,
        "gradio_api/call/load": said,
        "gradio_api/queue/data?session_hash=x": None,
        "gradio_api/file=/etc/passwd": None,
        module_address(FADERS): None,
    }.items():
        assert ask(f"{locked}{path}", data, Content_Type="application/json")[0] == 401, path
    page = ask(locked)[1].decode()
    assert access.TOLD in page, "the page says what comes of guessing"
    assert log_in(locked, PASSWORD) == 200
    for _ in range(access.WRONG_EACH):
        assert log_in(locked, "guess") == 400
    assert log_in(locked, "guess") == 429
    assert log_in(locked, PASSWORD) == 429, "the right one does not open it either"
    status, words = ask(f"{locked}login/", b"username=me&password=x")
    assert (status, words.decode()) == (429, access.TOLD)


class Inside:
    """An app behind the door that only knows one password."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, scope: Any, _: Any, send: Any) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        status = 200 if (b"x-right", b"1") in scope["headers"] else 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def knock(guard: access.Door, right: bool = False, place: str = "10.0.0.1", **headers: str) -> int:
    told: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        told.append(message.get("status", 0))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/login",
        "client": (place, 1),
        "headers": [
            (b"content-length", b"0"),
            (b"host", b"127.0.0.1"),
            (b"x-right", b"1" if right else b"0"),
            *((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()),
        ],
    }
    await guard(scope, receive, send)
    return told[0]


def test_security_lock_out_holds_against_many_at_once_and_ends() -> None:
    now = [0.0]
    inside = Inside()
    guard = access.Door(inside, Address(), clock=lambda: now[0])

    async def many(count: int, places_: Callable[[int], str]) -> list[int]:
        return await asyncio.gather(*(knock(guard, place=places_(i)) for i in range(count)))

    assert sorted(asyncio.run(many(30, lambda _: "10.0.0.1")))[:5] == [400] * 5
    assert inside.asked == access.WRONG_EACH
    assert asyncio.run(knock(guard, True, "10.0.0.2")) == 200, "others may come in"
    now[0] = access.PAUSE - 1
    assert asyncio.run(knock(guard, True)) == 429
    now[0] = access.PAUSE + 1
    assert asyncio.run(knock(guard, True)) == 200
    asyncio.run(many(200, lambda i: f"10.1.0.{i}"))
    assert inside.asked == access.WRONG_EACH + 2 + access.WRONG_ALL, (
        "from many places, not more than from all"
    )
    assert len(guard.tries.wrong) == access.WRONG_ALL


# What is opened ---------------------------------------------------------------------------------------------


def test_security_no_file_is_handed_out(
    address: str, forger: Forger, tiny_folder: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    link = forger.session.folder / "link.json"
    link.symlink_to(secret)
    (forger.session.folder / "plan.json").write_text("{}")
    history = tmp_path / "home" / "history" / "run-0001.json"
    history.parent.mkdir(parents=True)
    history.write_text("{}")
    wanted = [
        Path("/etc/passwd"),
        secret,
        link,
        history,
        forger.session.folder / "plan.json",
        tiny_folder / "config.json",
        ROOT / "app.py",
        ROOT / "README.md",
        Path("app.py"),
        Path("../etc/passwd"),
        ROOT / "assets" / ".." / "app.py",
    ]
    for path in wanted:
        for way in (f"gradio_api/file={path}", f"file={path}", f"gradio_api/file/{path}", f"static/{path}"):
            status, body = ask(address + urllib.parse.quote(way, safe="=/."))
            assert status in (403, 404), (way, status)
            assert b"root:" not in body
    for way in ("gradio_api/file=http://127.0.0.1:1/x", "gradio_api/proxy=http://127.0.0.1:1/x"):
        assert ask(address + way)[0] in (400, 403, 404), way
    assert launch_options(Settings()).get("allowed_paths") in (None, [])


def test_security_the_environment_opens_no_folder(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    with served(str(tiny_folder)) as address:
        assert ask(f"{address}gradio_api/file={tmp_path}/secret.txt")[0] == 403


def test_security_an_upload_that_was_none_is_refused(forger: Forger, tiny_folder: Path) -> None:
    (load,) = (each for each in forger.events if ("tune-load", "upload") in forger.triggers(each))
    for path in ("/etc/passwd", str(tiny_folder / "config.json"), "../../etc/passwd"):
        answer = forger.send(load, [None, None, {"path": path, "meta": {"_type": "gradio.FileData"}}])
        assert not answer["success"]
        assert "root:" not in json.dumps(answer)


def linked(folder: Path) -> dict[str, Path]:
    """A root with a model and texts, and links in it that lead out and stay in."""
    root, outside = folder / "root", folder / "outside"
    for place in (root / "model", outside / "model"):
        tiny_model("llama").save_pretrained(place)
        tiny_tokenizer().save_pretrained(place)
    for place in (root, outside):
        (place / "page.txt").write_text(PAGE * 12)
        (place / "x.gguf").write_text("GGUF")
    made = {"root": root, "outside": outside}
    for name, target in {
        "out.txt": outside / "page.txt",
        "in.txt": root / "page.txt",
        "out": outside / "model",
        "in": root / "model",
        "out.gguf": outside / "x.gguf",
        "circle.txt": root / "circle.txt",
    }.items():
        (root / name).symlink_to(target)
    mixed = root / "mixed"
    mixed.mkdir()
    for file in (root / "model").iterdir():
        (mixed / file.name).symlink_to(file)
    (mixed / "model.safetensors").unlink()
    (mixed / "model.safetensors").symlink_to(outside / "model" / "model.safetensors")
    return made


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(Refusal) as caught:
        action()
    return str(caught.value)


def test_security_only_what_is_really_inside_of_a_root_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = linked(tmp_path)
    root, outside = made["root"], made["outside"]
    assert model_inspection.inspect_model(str(root / "out")).supported, (
        "on one's own machine all may be opened"
    )
    monkeypatch.setenv(paths.ROOTS, "")
    paths.declare_roots([root])
    for name in ("model", "in"):
        assert model_inspection.inspect_model(str(root / name)).supported
        assert loading.load_model(str(root / name), dtype="float32").shape.hidden == 48
    for name in ("page.txt", "in.txt"):
        assert texts.find_text(str(root / name)).part("evaluation")
    for inside, missing in ((root / "out", root / "none"), (outside / "model", outside / "none")):
        said = refusal(lambda inside=inside: loading.load_model(str(inside)))
        assert said.replace(str(inside), "X") == refusal(
            lambda missing=missing: loading.load_model(str(missing))
        ).replace(str(missing), "X"), "what is outside looks like what is missing"
    for name in ("out.txt", "../outside/page.txt", "circle.txt"):
        assert "There is no file" in refusal(lambda name=name: texts.find_text(str(root / name)))
    assert "There is no file" in refusal(lambda: loading.load_model(str(root / "out.gguf")))
    assert "There is no file" in refusal(lambda: loading.load_model(str(outside / "x.gguf")))
    assert "model.safetensors" in refusal(lambda: loading.load_model(str(root / "mixed")))
    monkeypatch.chdir(tmp_path)
    assert "There is no folder" in refusal(lambda: loading.load_model("outside/model")), (
        "it is no hub id either"
    )


def test_security_the_page_keeps_to_the_roots(
    forger: Forger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = linked(tmp_path)
    monkeypatch.setenv(paths.ROOTS, str(made["root"]))
    assert "There is no folder" in forger.raise_event("load-button", "click", str(made["outside"] / "model"))
    assert "There is no folder" in forger.raise_event("load-button", "click", str(made["root"] / "out"))
    assert forger.raise_event("load-button", "click", str(made["root"] / "model")) == ""
    assert forger.session.subject.source == str(made["root"] / "model")


def test_security_a_server_for_others_opens_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path
) -> None:
    monkeypatch.setenv(paths.ROOTS, "x")
    monkeypatch.delenv(paths.ROOTS)
    declare_roots(Settings())
    assert paths.allowed_roots() is None
    mine = tmp_path / "page.txt"
    mine.write_text(PAGE)
    declare_roots(Settings(listen=True, auth=("me", PASSWORD), model=str(tiny_folder)))
    assert paths.is_folder(tiny_folder), "but for the model that it is started with"
    assert not paths.is_file(mine)
    declare_roots(Settings(listen=True, auth=("me", PASSWORD), roots=(tmp_path,)))
    assert paths.is_file(mine)


def test_security_an_export_through_a_link_goes_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert checkpoint.check_target(tmp_path / "link") == (tmp_path / "real").resolve()
    (tmp_path / "real" / "thesis.txt").write_text("years of work")
    assert "not empty" in refusal(lambda: checkpoint.check_target(tmp_path / "link"))


def turned_away(address: str, data: bytes, kind: str) -> bool:
    """Whether what is sent is too much: the answer says so, or the connection ends before all is sent."""
    try:
        return ask(address, data, Content_Type=kind)[0] == 413
    except urllib.error.URLError as failure:
        return isinstance(failure.reason, ConnectionError)


def test_security_uploads_and_requests_are_limited(address: str) -> None:
    upload, edge = f"{address}gradio_api/upload", "xyzzy"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="a.json"\r\n\r\n'.encode()
    kind = f"multipart/form-data; boundary={edge}"
    tail = f"\r\n--{edge}--\r\n".encode()
    assert ask(upload, head + b"{}" + tail, Content_Type=kind)[0] == 200
    assert turned_away(upload, head + b"x" * 55_000_000 + tail, kind)
    assert turned_away(
        f"{address}gradio_api/queue/join", b" " * (request_limits.MOST_SAID + 1), "application/json"
    )
    for path, most in (
        ("/gradio_api/upload", request_limits.MOST_UPLOADED),
        ("/gradio_api/queue/join", request_limits.MOST_SAID),
        ("/login", request_limits.MOST_BEFORE_LOGIN),
    ):
        wrong = {str(most + 1): 413, "": 411, "-1": 411, "many": 411, "²": 411, "9" * 5000: 411}
        for length, status in wrong.items():
            with pytest.raises(Turned) as turned:
                access.check_method("POST", path, {"content-length": length}, known=True)
            assert turned.value.status == status
        access.check_method("POST", path, {"content-length": str(most)}, known=True)


def test_security_no_component_has_server_functions(address: str, forger: Forger) -> None:
    for each in forger.config["components"]:
        assert not each["props"].get("server_fns"), each
    some = [each["id"] for each in forger.config["components"] if each["type"] in ("html", "uploadbutton")]
    for number in some[:12]:
        for name in ("preprocess", "postprocess", "__init__", "sent", "__class__"):
            body = {"data": "x", "component_id": number, "fn_name": name, "session_hash": forger.hash}
            where = f"{address}gradio_api/component_server"
            assert ask(where, json.dumps(body).encode(), Content_Type="application/json")[0] == 404


# What is shown ----------------------------------------------------------------------------------------------


def test_security_no_text_is_in_a_template(forger: Forger) -> None:
    seen = 0
    for each in forger.config["components"]:
        template = str(each["props"].get("html_template") or "")
        if template not in ("", "${value}"):
            seen += 1
            assert not re.search(r"\$\{|\{\{", template), each["props"].get("elem_id")
    assert seen > 5


# What is run ------------------------------------------------------------------------------------------------


class Bomb:
    """A pickle that runs code when it is opened."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def whole(folder: Path) -> Path:
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_security_no_pickle_is_opened(tmp_path: Path) -> None:
    mark = tmp_path / "opened"
    bomb = pickle.dumps(Bomb(mark))
    pickle.loads(bomb)
    mark.rmdir()  # it works
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"):
        folder = whole(tmp_path / name)
        (folder / name).write_bytes(bomb)
        assert loading.load_model(str(folder), dtype="float32").shape.hidden == 48, "safetensors are taken"
        (folder / "model.safetensors").unlink()
        assert "pickled weights" in refusal(lambda folder=folder: loading.load_model(str(folder)))
    disguised = whole(tmp_path / "disguised")
    (disguised / "model.safetensors").write_bytes(bomb)
    assert "cannot be loaded" in refusal(lambda: loading.load_model(str(disguised)))
    for name in ("training_args.bin", "adapter_model.bin", "tokenizer.pkl"):
        (whole(tmp_path / "extra") / name).write_bytes(bomb)
    loading.load_model(str(tmp_path / "extra"), dtype="float32")
    assert not mark.exists()


def test_security_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    code = f"import os; os.mkdir({str(mark)!r})\nclass A: ...\n"
    for kind in ("llama", "stranger"):
        folder = whole(tmp_path / kind)
        config = json.loads((folder / "config.json").read_text())
        names = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
        config |= {"model_type": kind, "auto_map": dict.fromkeys(names, "evil.A")}
        (folder / "config.json").write_text(json.dumps(config))
        words = json.loads((folder / "tokenizer_config.json").read_text())
        words["auto_map"] = {"AutoTokenizer": ["evil.A", "evil.A"]}
        (folder / "tokenizer_config.json").write_text(json.dumps(words))
        for name in ("evil.py", "modeling_slim.py"):
            (folder / name).write_text(code)
    assert loading.load_model(str(tmp_path / "llama"), dtype="float32").shape.hidden == 48
    assert "supported families" in refusal(lambda: loading.load_model(str(tmp_path / "stranger")))
    assert not model_inspection.inspect_model(str(tmp_path / "stranger")).supported
    assert not mark.exists()


def calls(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted name, constant keywords) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            given = {
                k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)
            }
            yield ast.unparse(node.func), given


def test_security_the_code_opens_no_pickle_and_trusts_no_code() -> None:
    risky = {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "joblib.load", "os.system"}
    for path in OURS:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from) (pickle|joblib|dill|marshal|shelve)\b", source, re.M), path
        for name, given in calls(path):
            assert name not in risky, (path, name)
            assert given.get("trust_remote_code") in (None, False), (path, name)
            assert given.get("weights_only") in (None, True), (path, name)
            assert given.get("allow_pickle") in (None, False), (path, name)
            assert given.get("shell") in (None, False), (path, name)
    trusting = [
        path.stem for path in OURS if re.search(r'trust_remote_code"(\]|:) ?=? ?True', path.read_text())
    ]
    assert trusting == ["plain_reload"], "which reads in a fresh process what we have just written ourselves"


# What is told of --------------------------------------------------------------------------------------------


HEARD: list[str] = []


class Echo(BaseHTTPRequestHandler):
    """A hub that tells everybody the token that it was sent."""

    def do_GET(self) -> None:
        token = self.headers.get("Authorization", "")
        HEARD.append(token)
        said = json.dumps({"error": f"bad token {token}"}).encode()
        self.send_response(401)
        self.send_header("X-Error-Message", f"bad token {token}")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.slow
def test_security_a_token_sent_to_the_hub_is_not_told(tmp_path: Path) -> None:
    hub = HTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    given = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"),
        "SLIMLLM_HOME": str(tmp_path / "home"),
    }
    try:
        command = [sys.executable, "-m", "slimllm", "card", "somebody/something", "--json"]
        done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=120)
    finally:
        hub.shutdown()
    assert any(TOKEN in heard for heard in HEARD), "it was sent"
    assert done.returncode == 2
    assert "somebody/something" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert not holding(tmp_path)


def holding(folder: Path) -> list[Path]:
    """The files in which the token stands."""
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.mark.slow
def test_security_tokens_are_in_no_log_history_or_report(
    forger: Forger,
    tmp_path: Path,
    page: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG)
    reading = f"--model {tiny_folder} --text {page} --samples 4 --length 32 --dtype float32"
    out = tmp_path / "small"
    assert main.main([*f"prune {reading} --ratio 0.25 --out".split(" "), str(out)]) == 0
    assert main.main(["card", TOKEN]) == 2, "a token in the place of a name"
    assert "hf_…" in capsys.readouterr().err
    assert "hf_…" in forger.raise_event("load-button", "click", TOKEN)

    def failing(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"401 for {TOKEN}")

    monkeypatch.setattr(loading, "load_model", failing)
    assert "hf_…" in forger.raise_event("load-button", "click", "anything")
    said = capsys.readouterr()
    assert TOKEN not in caplog.text + said.out + said.err
    assert "hf_…" in caplog.text
    assert not holding(tmp_path)
    assert not holding(forger.session.folder)
    assert TOKEN not in one_line(f"x {TOKEN}, {TOKEN}")


def test_security_sources_of_the_starter_are_checked_by_hash() -> None:
    listed = (ROOT / "requirements-starter.txt").read_text()
    assert listed.count("--hash=sha256:") >= 2
    assert starter_kit.STARTER == "smollm2"
