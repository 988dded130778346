"""The measuring: clients that count what was really answered, figures for every section."""

import http.server
import threading

import pytest

from measure import load


class Closing(http.server.BaseHTTPRequestHandler):
    """Keeps a connection for three requests, as nginx does for a thousand."""

    protocol_version = "HTTP/1.1"
    answered = 0
    status = 200

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).answered += 1
        self.send_response(self.status)
        self.send_header("Content-Length", "4")
        self.close_connection = self.answered % 3 == 0
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"body")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    class Handler(Closing):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


MESSAGE = load.request("/x", "there", b"1,2", {"Content-Type": "text/csv"})


def test_a_request_says_what_it_holds():
    head, body = MESSAGE.split(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /x HTTP/1.1", b"Host: there", b"Content-Length: 3", b"Content-Type: text/csv",
    ]  # fmt: skip
    assert body == b"1,2"


def test_every_answered_request_is_counted_over_closed_connections(server):
    figures = load.load(server.server_address, MESSAGE, clients=4, seconds=0.5)
    answered = server.RequestHandlerClass.answered
    assert answered > 12
    assert figures["requests/s"] * 0.5 == answered
    assert 0 < figures["p50 ms"] <= figures["p99 ms"] < 500


def test_the_answer_is_handed_back(server):
    assert load.ask(server.server_address, MESSAGE) == b"body"


def test_an_error_is_no_answer(server):
    server.RequestHandlerClass.status = 500
    with pytest.raises(RuntimeError, match="500"):
        load.load(server.server_address, MESSAGE, clients=2, seconds=0.2)


def test_an_unknown_section_is_refused(project):
    result = project.script("dev/bench", "speed")
    assert result.returncode == 1
    assert "one of: serving, store, batch, cluster, jobs, way, growth" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "shown", "figure"),
    [("serving", "sandbox, signed", "default, endpoint process, 1, requests/s"),
     ("store", "SeaweedFS alone", None), ("way", "provision to in service", None)],
)  # fmt: skip
def test_what_is_measured_is_shown(project, section, shown, figure):
    result = project.script("dev/bench", section, "--seconds", "0.2", "--repeats", "1")
    assert result.returncode == 0, result.stderr
    assert shown in result.stdout
    figures = project.read("build/bench.json")[section]
    assert figures
    if figure:
        assert figures[figure]["median"] > 0
    assert (project.folder / "build" / "bench.png").stat().st_size > 10_000
