"""Published models by name: fetched from a server on this machine, which breaks off, lies, or is not there."""

from __future__ import annotations

import http.server
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

import macejax
from macejax.checkpoint import foundation
from macejax.checkpoint.foundation import FOUNDATIONS, FetchError, Foundation, fetch


class Server(http.server.ThreadingHTTPServer):
    content = b""
    breaks_after: int | None = None
    ranges: bool = True
    seconds: float = 0.0  # until it answers
    requests: list


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append(asked)
        time.sleep(server.seconds)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
        if start and start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if server.breaks_after is None else body[: server.breaks_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    running = Server(("127.0.0.1", 0), Handler)
    running.requests = []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MACEJAX_MODELS", str(tmp_path / "models"))
    url = f"http://127.0.0.1:{running.server_port}/small.model"
    monkeypatch.setitem(FOUNDATIONS, "small", Foundation(url, "MIT"))
    yield running
    running.shutdown()
    running.server_close()


def archive(path) -> bytes:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"N." + bytes(100_000))
    return path.read_bytes()


def test_a_file_is_fetched_once_and_its_licence_printed(server, tmp_path, capsys):
    server.content = archive(tmp_path / "a")
    path = fetch("small")
    assert path == tmp_path / "models" / "small.model" and path.read_bytes() == server.content
    assert "Licence: MIT" in capsys.readouterr().err
    assert fetch("small") == path
    assert len(server.requests) == 1 and not capsys.readouterr().err


def test_two_who_need_it_at_once(server, tmp_path):
    """The second waits for the first, and takes what that one fetched."""
    server.content, server.seconds = archive(tmp_path / "a"), 0.3
    with ThreadPoolExecutor(2) as pool:
        paths = [*pool.map(fetch, ["small", "small"])]
    assert [path.read_bytes() for path in paths] == [server.content] * 2 and server.requests == [None]


@pytest.mark.parametrize("ranges", [True, False], ids=["server-resumes", "server-starts-anew"])
def test_a_broken_transfer_goes_on(server, tmp_path, ranges):
    server.content, server.breaks_after, server.ranges = archive(tmp_path / "a"), 1000, ranges
    with pytest.raises(FetchError, match="another try goes on"):
        fetch("small")
    assert not (tmp_path / "models" / "small.model").exists()
    server.breaks_after = None
    assert fetch("small").read_bytes() == server.content
    assert server.requests == [None, "bytes=1000-"]


def test_what_was_whole_but_not_named_is_used(server, tmp_path):
    server.content = archive(tmp_path / "a")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.model.part").write_bytes(server.content)
    assert fetch("small").read_bytes() == server.content


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b""], ids=["a page", "nothing"])
def test_a_page_is_no_model(server, tmp_path, content):
    server.content = content
    with pytest.raises(FetchError, match=r"is not the model.*Put the file at .*small\.model"):
        fetch("small")
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_damage_is_noticed(server, tmp_path, monkeypatch):
    content = bytearray(archive(tmp_path / "a"))
    content[len(content) // 2] ^= 1
    server.content = bytes(content)
    with pytest.raises(FetchError, match=r"data\.pkl is damaged"):
        fetch("small")
    server.content = archive(tmp_path / "a")
    monkeypatch.setitem(FOUNDATIONS, "small", FOUNDATIONS["small"]._replace(sha256="0" * 64))
    with pytest.raises(FetchError, match="checksum"):
        fetch("small")


def test_offline_the_error_says_where_to_put_the_file(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(FetchError, match=rf"Put the file at {tmp_path}.*small\.model"):
        macejax.load("small")


def test_a_name_is_a_model(server, real_data, tmp_path):
    server.content = (real_data / "models" / "water" / "one_layer.model").read_bytes()
    model = macejax.load("small")
    assert model.config == macejax.load(real_data / "models" / "water" / "one_layer.model").config
    assert (tmp_path / "models" / "small.mace").exists()
    (tmp_path / "models" / "small.mace").touch()
    assert macejax.load("small").config == model.config
    assert len(server.requests) == 1


def test_a_file_that_was_put_there_by_hand_tells_its_licence_once_too(server, real_data, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "small.model").write_bytes((real_data / "models" / "water" / "one_layer.model").read_bytes())
    macejax.load("small")
    assert "Licence: MIT" in capsys.readouterr().err and not server.requests
    macejax.load("small")
    assert not capsys.readouterr().err


def test_a_file_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(b"mine")
    assert not foundation.is_name("small") and foundation.is_name("medium") and foundation.is_name("small_off")
