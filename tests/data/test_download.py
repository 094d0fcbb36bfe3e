"""Tests of `memembed.data.download`, with a local server."""

import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time

import pytest

from memembed.data import download as module
from memembed.data.download import download

CONTENT = bytes(range(256)) * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
UNREACHABLE = "http://127.0.0.1:9/ml-1m.zip"


class Server(http.server.ThreadingHTTPServer):
    """Sends `content`, or its first `breaks_after` bytes, and waits if it `holds`."""

    def __init__(self, content, status=200, breaks_after=None, certificate=None):
        self.content, self.status, self.breaks_after = content, status, breaks_after
        self.holds, self.released, self.requests = False, threading.Event(), 0
        super().__init__(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)
        scheme = "https" if certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server_port}/ml-1m.zip"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *args):
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Stay silent about clients that disconnect."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        holds, sent = server.holds, server.content[: server.breaks_after]
        server.requests += 1
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        self.wfile.write(sent)
        if holds:
            server.released.wait(60)

    def log_message(self, *args):
        """Stay silent."""


@pytest.fixture(autouse=True)
def isolated(monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "memembed"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    public = path.with_name("public.pem")
    command = (
        "openssl req -x509 -nodes -days 1 -subj /CN=localhost -newkey ec "
        f"-pkeyopt ec_paramgen_curve:prime256v1 -keyout {path} -out {public}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + public.read_bytes())
    return path


def test_downloads_once_and_silently(folder, capfd):
    with Server(CONTENT) as server:
        paths = [download(server.url, SHA256, folder) for _ in range(2)]
    assert paths == [folder / "ml-1m.zip"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert server.requests == 1
    assert os.listdir(folder) == ["ml-1m.zip"]
    assert capfd.readouterr() == ("", "")


def test_progress_on_a_terminal(monkeypatch, folder, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Server(CONTENT) as server:
        download(server.url, SHA256, folder)
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (CONTENT + b"x", {}, "sent another file"),
        (CONTENT, {"status": 503}, r"could not be downloaded \(HTTPError\)"),
        (CONTENT, {"breaks_after": 9000}, "could not be downloaded"),
    ],
)
def test_interrupted_or_wrong(folder, content, options, message):
    with (
        Server(content, **options) as server,
        pytest.raises(FileNotFoundError, match=message),
    ):
        download(server.url, SHA256, folder)
    assert os.listdir(folder) == []


def test_damaged_cache_is_replaced(folder):
    folder.mkdir(parents=True)
    (folder / "ml-1m.zip").write_bytes(CONTENT[:100])
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        download(UNREACHABLE, SHA256, folder)
    with Server(CONTENT) as server:
        assert download(server.url, SHA256, folder).read_bytes() == CONTENT


def test_untrusted_certificate(folder, certificate, recwarn, capfd):
    with Server(CONTENT, certificate=certificate) as server:
        assert download(server.url, SHA256, folder).read_bytes() == CONTENT
    assert server.requests == 1
    assert not recwarn
    assert capfd.readouterr() == ("", "")
    with (
        Server(CONTENT + b"x", certificate=certificate) as server,
        pytest.raises(FileNotFoundError, match="sent another file"),
    ):
        download(server.url, SHA256, folder / "wrong")
    assert os.listdir(folder / "wrong") == []


def test_no_cache_folder(folder):
    folder.parent.write_bytes(b"a file is in the way")
    reason = rf"the cache folder {folder} could not be used \(Not a directory\)"
    with pytest.raises(FileNotFoundError, match=reason):
        download(UNREACHABLE, SHA256, folder)


# In a package without its __init__: importing Keras takes seconds.
DOWNLOAD = """
import pathlib, sys, types
sys.modules["memembed"] = types.ModuleType("memembed")
sys.modules["memembed"].__path__ = [sys.argv[1]]
from memembed.data.download import download
download(sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4]))
"""


def test_two_at_once_and_one_killed(folder):
    with Server(CONTENT, breaks_after=20_000) as server:
        server.holds = True
        package = os.path.dirname(os.path.dirname(module.__file__))
        process = subprocess.Popen(
            [sys.executable, "-c", DOWNLOAD, package, server.url, SHA256, folder]
        )
        try:
            while not (started := list(folder.glob("tmp*"))) or not server.requests:
                assert process.poll() is None
                time.sleep(0.01)
            server.holds, server.breaks_after = False, None
            assert download(server.url, SHA256, folder).read_bytes() == CONTENT
            assert list(folder.glob("tmp*")) == started
        finally:
            process.kill()
            process.wait()
    an_hour_ago = time.time() - 3601
    os.utime(started[0], (an_hour_ago, an_hour_ago))
    (folder / "tmp_in_progress").touch()
    download(UNREACHABLE, SHA256, folder)
    assert sorted(os.listdir(folder)) == ["ml-1m.zip", "tmp_in_progress"]
