"""Getting the candidates over HTTP, from homes that answer well, badly or not at all."""

import io
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import fetch
from candidates import files, htru2, simulator
from common.errors import BadData, UserError, run

PARAMS = {"source": "auto", "simulated_candidates": 400, "simulated_pulsars": 100, "seed": 1}


@pytest.fixture(scope="module")
def htru2_like() -> str:
    """A file with HTRU2's counts; its values are simulated."""
    features, classes = simulator.simulate(htru2.PULSARS, htru2.ROWS - htru2.PULSARS, seed=2)
    return htru2.to_csv(np.column_stack([features, classes]))


@pytest.fixture
def homes(monkeypatch):
    """A server on loopback; the returned function gives it a page and makes it a home."""
    pages: dict[str, tuple[bytes, int | None]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in pages:
                self.send_error(404)
                return
            content, length = pages[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(fetch, "HOMES", ())

    def add(name: str, content: bytes | None, length: int | None = None) -> None:
        if content is not None:
            pages["/" + name] = (content, length)
        monkeypatch.setattr(fetch, "HOMES", (*fetch.HOMES, url + name))

    yield add
    server.shutdown()
    server.server_close()


def parsed(text: str) -> np.ndarray:
    return files.labelled(*files.read_stream(io.BytesIO(text.encode()), "x"), "x")


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HTRU2/HTRU_2.csv", text)
    return buffer.getvalue()


def test_the_zip_of_the_first_home_is_used(homes, htru2_like):
    homes("htru2.zip", zipped(htru2_like.replace("\n", "\r")))
    data, is_simulated = fetch.get("auto", PARAMS, {})
    assert not is_simulated
    assert np.array_equal(data, parsed(htru2_like))


def test_a_home_that_fails_gives_way_to_the_next(homes, htru2_like, capsys):
    homes("gone.zip", None)
    homes("broken.zip", b"PK no zip at all")
    homes("cut.csv", htru2_like.encode()[:5000])
    homes("hangs-up.csv", htru2_like.encode()[:5000], length=len(htru2_like))
    homes("good.arff", ("@relation x\n@data\n" + htru2_like.split("\n", 1)[1]).encode())
    data, is_simulated = fetch.get("auto", PARAMS, {})
    assert not is_simulated
    assert len(data) == htru2.ROWS
    said = capsys.readouterr().err
    assert all(name in said for name in ("gone.zip", "broken.zip", "cut.csv", "hangs-up.csv"))


def test_where_no_home_answers_auto_simulates_and_says_so(homes, capsys):
    homes("gone.zip", None)
    data, is_simulated = fetch.get("auto", PARAMS, {})
    assert is_simulated
    assert data.shape == (400, 9)
    assert "SIMULATED" in capsys.readouterr().err


def test_where_no_home_answers_htru2_fails_with_the_way_out(homes):
    homes("gone.zip", None)
    with pytest.raises(UserError) as caught:
        fetch.get("htru2", PARAMS, {})
    assert "HTRU2=" in caught.value.remedy


def test_a_url_can_be_named(homes, htru2_like):
    homes("mine.csv", htru2_like.encode())
    data = fetch.from_place(fetch.HOMES[0])
    assert len(data) == htru2.ROWS


@pytest.mark.parametrize("place", ["/nowhere/HTRU_2.csv", "http://127.0.0.1:9/HTRU_2.csv"])
def test_a_place_that_is_not_there_is_named(place):
    with pytest.raises(BadData, match="HTRU_2.csv"):
        fetch.from_place(place)


def test_precedence_is_flag_environment_params(monkeypatch):
    monkeypatch.setenv("HTRU2", "from-environment")
    assert fetch.chosen("from-flag", PARAMS) == "from-flag"
    assert fetch.chosen(None, PARAMS) == "from-environment"
    monkeypatch.delenv("HTRU2")
    assert fetch.chosen(None, PARAMS) == "auto"


@pytest.mark.parametrize(
    ("named", "source", "there", "stale"),
    [
        ("one", "auto", "one", False),
        ("two", "auto", "one", True),
        ("two", "auto", None, True),  # DVC would bring back what it has in its cache
        (None, "two", "one", True),
        (None, "one", "one", False),
        ("simulated", "auto", "one", True),
        ("simulated", "auto", "simulated", False),
        (None, "htru2", "simulated", True),
        (None, "auto", None, False),
        (None, "auto", "one", False),
    ],
)
def test_candidates_are_stale_when_they_are_not_what_was_chosen(
    named, source, there, stale, htru2_like, tmp_path, monkeypatch
):
    numbers = parsed(htru2_like)
    places = {"one": tmp_path / "one.csv", "two": tmp_path / "two.csv"}
    contents = {"simulated": '{"simulated": true}'}
    for name, place in places.items():
        numbers[0, 0] += 0.5
        place.write_text(htru2.to_csv(numbers))
        contents[name] = f'{{"simulated": false, "content": "{htru2.content_hash(numbers)}"}}'
    monkeypatch.setattr(fetch, "SOURCE", tmp_path / "source.json")
    monkeypatch.setenv("HTRU2", str(places.get(named, named or "")))
    if there:
        (tmp_path / "source.json").write_text(contents[there])
    assert fetch.is_stale(PARAMS | {"source": str(places.get(source, source))}) is stale


@pytest.mark.parametrize("content", [None, "", "1,2,3\n", "folder"])
def test_a_wrong_file_is_an_error_and_not_fresh(content, tmp_path, monkeypatch, capsys):
    place = tmp_path / "mine.csv"
    if content == "folder":
        place.mkdir()
    elif content is not None:
        place.write_text(content)
    monkeypatch.setenv("HTRU2", str(place))
    monkeypatch.setattr(sys, "argv", ["fetch.py", "--stale"])
    with pytest.raises(SystemExit) as ended:
        run(fetch.main)
    assert ended.value.code not in (fetch.STALE, fetch.FRESH)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "\n  next: HTRU2=" in said


def test_simulated_data_is_stale_once_a_home_answers(homes, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SOURCE", tmp_path / "source.json")
    monkeypatch.delenv("HTRU2", raising=False)
    (tmp_path / "source.json").write_text('{"simulated": true}')
    homes("gone.zip", None)
    assert not fetch.is_stale(PARAMS)
    homes("back.zip", b"anything")
    assert fetch.is_stale(PARAMS)
    assert not fetch.is_stale(PARAMS | {"source": "simulated"})
