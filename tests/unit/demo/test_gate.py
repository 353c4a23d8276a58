"""Raw requests: what the page makes itself passes, nothing else does, and nothing grows or is logged."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from adatp.demo import gate, uploads, visitors
from adatp.demo.gate import ASK, PICK, UPLOAD, Gate
from adatp.demo.refusal import RefusalError
from adatp.demo.uploads import sweep
from adatp.demo.visitors import MOST_OF_ONE, MOST_WAITING, Visitors
from adatp.methods import AdaTP
from adatp.session import Session
from adatp.tiny import CLIP, QUESTION

Asked = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def page(folder: Path) -> Gate:
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    from adatp.demo.app import build_app

    session = Session(device="cpu")
    session.warm_up(session.prepare(CLIP, QUESTION, frames=4), AdaTP())
    app = build_app(session, folder, ["localhost", "box.lab"])
    if before is None:
        del os.environ["GRADIO_TEMP_DIR"]
    return app


@pytest.fixture(scope="module")
def opened(page: Gate) -> Iterator[TestClient]:
    with TestClient(page, base_url="http://127.0.0.1:7860", client=("10.0.0.1", 1)) as client:
        yield client


@pytest.fixture
def client(opened: TestClient, page: Gate, capfd: pytest.CaptureFixture[str]) -> Iterator[TestClient]:
    """The page; whatever is asked of it, nothing is logged, and nobody waits afterwards."""
    capfd.readouterr()
    yield opened
    assert capfd.readouterr() == ("", "")
    assert page.visitors._waiting == {}


def question(folder: Path, **changed: Any) -> Asked:
    """What the page sends to ask the model."""
    clip = {"path": str(folder / CLIP.name), "meta": {"_type": "gradio.FileData"}}
    call: Asked = {"data": [clip, QUESTION, 27.3, 4, ["adatp"]], "fn_index": 1, "session_hash": "abc"}
    return {**call, **changed}


def heard(client: TestClient, session: str) -> list[Asked]:
    """What the page is sent until it has its answer."""
    text = client.get("/gradio_api/queue/data", params={"session_hash": session}).text
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]


def test_the_page_asks_and_is_answered(client: TestClient, folder: Path) -> None:
    assert "adatp" in client.get("/").text
    picked = client.post(PICK, json={"data": [0], "fn_index": 0, "session_hash": "abc", "trigger_id": 6})
    assert QUESTION in picked.text
    uploaded = client.post(UPLOAD + "?upload_id=a1", files={"files": ("a.mp4", CLIP.read_bytes())})
    [path] = uploaded.json()
    assert Path(path).read_bytes() == CLIP.read_bytes()
    assert client.get(f"/gradio_api/file={path}").content == CLIP.read_bytes()
    clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
    asked = question(folder, data=[clip, QUESTION, 27.3, 4, ["adatp", "adatp", "random"]])
    assert client.post(ASK, json=asked).status_code == 200
    *_, done, _ = heard(client, "abc")
    answers, gallery = done["output"]["data"]
    assert [name in answers for name in ("vanilla", "adatp", "random")] == [True] * 3
    assert answers.count("<h3>adatp") == 1  # each method is asked once
    assert "kept patches" in gallery


# Ways around the queue, and everything else that the page does not need.


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("POST", f"/gradio_api/{way}{name}")
            for way in ("run/", "api/", "call/", "call/v2/", "run/compare/../")
            for name in ("compare", "compare/", "load_example", "lambda")
        ),
        *(("POST", f"/{way}/compare") for way in ("run", "api", "call")),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/cancel"),
        ("POST", "/gradio_api/reset"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/vibe-code"),
        ("POST", "/gradio_api/stream/a"),
        ("POST", "/gradio_api/stream/a/close"),
        ("POST", "/gradio_api/queue/join/"),
        ("POST", "/login"),
        ("POST", "/"),
        ("GET", "/openapi.json"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/api_info"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/heartbeat/abc"),
        ("GET", "/gradio_api/queue/status"),
        ("GET", "/gradio_api/startup-events"),
        ("GET", "/gradio_api/call/compare/1"),
        ("GET", "/gradio_api/proxy=http://example.com/"),
        ("GET", "/gradio_api/file=http://example.com/a.mp4"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/gradio_api/deep_link?session_hash=a"),
        ("GET", "/gradio_api/token"),
        ("GET", "/gradio_api/app_id"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/custom_component/a/b/c/d"),
        ("GET", "/gradio_api/custom_component/a/b/c/d"),
        ("GET", "/svelte/a"),
        ("GET", "/pwa_icon"),
        ("GET", "/manifest.json"),
        ("GET", "/robots.txt"),
        ("GET", "/%2e%2e/openapi.json"),
        ("HEAD", "/openapi.json"),
    ],
)
def test_other_ways_are_closed(client: TestClient, folder: Path, method: str, path: str) -> None:
    content = json.dumps(question(folder)).encode() if method == "POST" else None
    found = client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert found.status_code == 404
    assert not found.text or found.json() == {"detail": "there is no such page"}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_other_methods_are_closed(client: TestClient, method: str) -> None:
    assert client.request(method, "/").status_code == 405


def test_web_sockets_are_closed(client: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/gradio_api/queue/join"):
        pass


NOT_FINITE = "[{}, 'what ?', NaN, 4, []]"
MALFORMED: list[Callable[[Asked], Any]] = [
    lambda asked: b"",
    lambda asked: b"{",
    lambda asked: b"null",
    lambda asked: b"[]",
    lambda asked: b"\xff\xfe",
    lambda asked: b"[" * 60_000,
    lambda asked: b'{"a":' * 10_000,
    lambda asked: b"9" * 50_000,
    lambda asked: {},
    lambda asked: {**asked, "data": None},
    lambda asked: {**asked, "data": {}},
    lambda asked: {**asked, "data": []},
    lambda asked: {**asked, "data": asked["data"][:4]},
    lambda asked: {**asked, "data": [*asked["data"], 1]},
    lambda asked: {**asked, "data": [[], *asked["data"][1:]]},
    lambda asked: {**asked, "data": ["clip.mp4", *asked["data"][1:]]},
    lambda asked: {**asked, "data": [{}, *asked["data"][1:]]},
    lambda asked: {**asked, "data": [asked["data"][0], 7, *asked["data"][2:]]},
    *(
        lambda asked, value=value: {**asked, "data": [*asked["data"][:2], value, *asked["data"][3:]]}
        for value in (None, "27", [], True)
    ),
    *(
        lambda asked, value=value: {**asked, "data": [*asked["data"][:3], value, asked["data"][4]]}
        for value in (None, "4", {}, False)
    ),
    *(
        lambda asked, value=value: {**asked, "data": [*asked["data"][:4], value]}
        for value in (None, "adatp", [7], {}, [["adatp"]])
    ),
    *(
        lambda asked, value=value: {**asked, "fn_index": value}
        for value in (0, 2, -1, 10**30, 1.0, True, None, "1", [])
    ),
    *(
        lambda asked, value=value: {**asked, "session_hash": value}
        for value in (None, "", "a b", "a" * 65, 7, [], "a\n", "../x")
    ),
    lambda asked: {**asked, "trigger_id": "x"},
    lambda asked: {**asked, "event_data": {"a": 1}},
    lambda asked: {**asked, "batched": True},
    lambda asked: {**asked, "event_id": "e"},
    lambda asked: {**asked, "simple_format": True},
]


@pytest.mark.parametrize("path", [ASK, PICK])
@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_malformed_calls_are_refused(client: TestClient, folder: Path, path: str, number: int) -> None:
    made = MALFORMED[number](question(folder))
    content = made if isinstance(made, bytes) else json.dumps(made).encode()
    found = client.post(path, content=content, headers={"content-type": "application/json"})
    assert (found.status_code, found.json()) == (400, {"detail": "bad request"})


@pytest.mark.parametrize("data", [[6], [-1], [10**30], [0.0], [True], [None], ["0"], [0, 1], [[0]]])
def test_examples_that_there_are_not(client: TestClient, data: list[Any]) -> None:
    call = {"data": data, "fn_index": 0, "session_hash": "abc"}
    assert client.post(PICK, json=call).status_code == 400


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", str(CLIP), "http://example.com/a.mp4", "a\0b", "n" * 5000, "{folder}/../x", "", 7, None],
)
def test_files_that_were_not_uploaded(client: TestClient, folder: Path, path: Any) -> None:
    named = path.format(folder=folder) if isinstance(path, str) else path
    asked = question(folder, data=[{"path": named}, QUESTION, 27.3, 4, ["adatp"]])
    found = client.post(ASK, json=asked, headers={"content-type": "application/json; x=multipart/"})
    assert (found.status_code, found.json()["detail"]) == (403, "a clip has to be uploaded, not named")


@pytest.mark.parametrize(
    "data",
    [
        *(
            [number, 4, ["adatp"]]
            for number in (10**9, -5, 0, 4.9, 100.1, 10**400, float("nan"), float("inf"))
        ),
        *([27.3, number, ["adatp"]] for number in (10**9, 0, -1, 65, float("nan"))),
        *([27.3, 4, names] for names in (["vanilla"], ["no method"], [""], ["adatp", "x"])),
    ],
)
def test_values_that_the_page_does_not_offer(client: TestClient, folder: Path, data: list[Any]) -> None:
    call = question(folder, data=[question(folder)["data"][0], QUESTION, *data])
    found = client.post(ASK, content=json.dumps(call).encode())
    assert (found.status_code, found.json()) == (400, {"detail": "bad request"})


def test_a_clip_that_is_gone(client: TestClient, folder: Path) -> None:
    asked = question(folder, data=[{"path": str(folder / "gone.mp4")}, QUESTION, 27.3, 4, ["adatp"]])
    found = client.post(ASK, json=asked)
    assert (found.status_code, found.json()["detail"]) == (410, "the clip is gone: upload it again")


# Bodies without end.


class Streamed:
    """A request whose body comes in pieces, and what became of it.

    Attributes:
        status: of the answer.
        body: of the answer.
        taken: bytes that the page asked for.
    """

    def __init__(
        self,
        opened: TestClient,
        path: str,
        pieces: Iterable[bytes],
        headers: dict[str, str],
        complete: bool = True,
    ) -> None:
        self.status, self.body, self.taken = 0, b"", 0
        pairs = [(name.encode(), value.encode()) for name, value in {"host": "127.0.0.1", **headers}.items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": pairs,
            "client": ("10.0.0.3", 1),
            "server": ("127.0.0.1", 7860),
            "state": {},
        }
        coming = iter(pieces)

        async def receive() -> dict[str, Any]:
            piece = next(coming, None)
            if piece is None:
                return {"type": "http.request", "body": b""} if complete else {"type": "http.disconnect"}
            self.taken += len(piece)
            return {"type": "http.request", "body": piece, "more_body": True}

        async def send(message: MutableMapping[str, Any]) -> None:
            self.status = message.get("status", self.status)
            self.body += message.get("body", b"")

        opened.portal.call(opened.app, scope, receive, send)  # type: ignore[union-attr,arg-type]

    def json(self) -> Any:
        return json.loads(self.body)


ZEROS = bytes(1 << 16)


@pytest.mark.parametrize("path", [ASK, PICK])
def test_bodies_are_bounded(client: TestClient, path: str) -> None:
    found = Streamed(client, path, itertools.repeat(ZEROS), {"content-type": "application/json"})
    assert found.status == 413
    assert found.taken <= 2 * gate.MOST_BODY


@pytest.mark.parametrize("path", [ASK, PICK])
def test_a_client_that_leaves_amid_its_question(client: TestClient, path: str) -> None:
    Streamed(client, path, [b'{"data":'], {"content-type": "application/json"}, complete=False)


BOUNDARY = "b0"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'.encode()
FIELD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"\r\n\r\n'.encode()
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    yield from (body[at : at + size] for at in range(0, len(body), size))


def unfinished(folder: Path) -> set[Path]:
    """What uploads left that were not complete."""
    return {path for path in left(folder) if path.parent == folder and path.suffix != ".mp4"}


def left(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", [1, 3, 7, 1 << 16])
@pytest.mark.parametrize("content", [b"x", b"a\r\nb" * 9, f"\r\n--{BOUNDARY[:-1]}".encode() * 3, bytes(3000)])
def test_an_upload_in_pieces_arrives(client: TestClient, content: bytes, size: int) -> None:
    found = Streamed(client, UPLOAD, in_pieces(HEAD + content + END, size), FORM)
    assert found.status == 200
    assert Path(found.json()[0]).read_bytes() == content


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x" * 20_000,
        FIELD + b"text" + END,
        HEAD + b"x\r\n" + HEAD + b"y" + END,
        HEAD + b"x\r\n" + FIELD + b"y" + END,
        HEAD + b"x" + END + HEAD + b"y" + END,
        b"preamble\r\n" + HEAD + b"x" + END,
        HEAD.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * 9000 + b"\r\n\r\n") + b"x" + END,
        FIELD.replace(b"\r\n\r\n", b'\r\nX: y; filename="a"\r\n\r\n') + b"x" + END,
        FIELD.replace(b"\r\n\r\n", b"\r\n" + HEAD[6:]) + b"x" + END,
    ],
)
def test_an_upload_of_anything_but_one_file(client: TestClient, folder: Path, body: bytes, size: int) -> None:
    before = unfinished(folder)
    found = Streamed(client, UPLOAD, in_pieces(body, size), FORM)
    assert found.status in (400, 413) or (not body and found.json() == [])
    rest = unfinished(folder) - before  # of a file that was cut off; it is swept
    assert len(rest) <= 1
    assert all(path.stat().st_size <= 1 for path in rest)


def test_a_file_under_another_name_is_swept(client: TestClient, folder: Path) -> None:
    before = unfinished(folder)
    body = HEAD.replace(b'name="files"', b'name="other"') + b"x" + END
    assert Streamed(client, UPLOAD, [body], FORM).json() == []
    assert len(unfinished(folder) - before) == 1


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", "multipart/mixed; boundary=b0", f"{FORM}; boundary=c"]
)
def test_an_upload_of_another_kind(client: TestClient, kind: str) -> None:
    assert client.post(UPLOAD, content=HEAD + b"x" + END, headers={"content-type": kind}).status_code == 400


def test_large_uploads_are_cut_off(
    client: TestClient, page: Gate, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = {**FORM, "content-length": str(10**12)}
    assert client.post(UPLOAD, content=b"x", headers=huge).status_code == 413
    assert client.post(UPLOAD, content=b"x", headers={**FORM, "content-length": "-1"}).status_code == 413
    object.__setattr__(page.rules, "most_bytes", 1 << 20)

    before = unfinished(folder)
    found = Streamed(client, UPLOAD, itertools.chain([HEAD], itertools.repeat(ZEROS)), FORM)
    assert (found.status, found.json()) == (413, {"detail": "a clip has 1 MB at most"})
    assert found.taken < 2 << 20
    object.__setattr__(page.rules, "most_bytes", 200 << 20)
    [rest] = unfinished(folder) - before
    assert rest.stat().st_size <= (1 << 20) + uploads.MOST_HEAD
    kept = [path for path in left(folder) if path.suffix == ".mp4"]
    sweep(folder, kept, time.time() + uploads.ABANDONED_SECONDS - 5)
    assert rest.exists()
    sweep(folder, kept, time.time() + uploads.ABANDONED_SECONDS + 5)
    assert not rest.exists()
    monkeypatch.setattr(gate, "MOST_STORED", 0)
    assert client.post(UPLOAD, content=HEAD + b"x" + END, headers=FORM).status_code == 503


def test_an_upload_that_is_broken_off_is_swept(client: TestClient, folder: Path) -> None:
    before = unfinished(folder)
    Streamed(client, UPLOAD, [HEAD, ZEROS, ZEROS], FORM, complete=False)
    [rest] = unfinished(folder) - before
    kept = [path for path in left(folder) if path.suffix == ".mp4"]
    sweep(folder, kept, time.time() + uploads.ABANDONED_SECONDS + 5)
    assert not rest.exists()


def test_old_clips_are_swept_and_examples_stay(tmp_path: Path) -> None:
    example, old = tmp_path / "example.mp4", tmp_path / "hash" / "old.mp4"
    old.parent.mkdir()
    for path in (example, old):
        path.write_text("a clip")
    with uploads.swept(tmp_path):
        pass
    sweep(tmp_path, [example], time.time() + uploads.KEEP_SECONDS - 5)
    assert old.exists()
    sweep(tmp_path, [example], time.time() + uploads.KEEP_SECONDS + 5)
    assert list(tmp_path.iterdir()) == [example]


def test_the_sweeper_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(uploads, "ABANDONED_SECONDS", -1.0)
    (tmp_path / "example.mp4").write_text("a clip")
    with uploads.swept(tmp_path):
        (tmp_path / "rest").write_text("half")
        end = time.monotonic() + 10
        while (tmp_path / "rest").exists() and time.monotonic() < end:
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == [tmp_path / "example.mp4"]


# Who asks, and under which name.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *((host, 200) for host in ("127.0.0.1", "127.0.0.1:7860", "localhost:1", "LocalHost", "[::1]:80")),
        *((host, 200) for host in ("192.168.1.7:7860", "box.lab", "BOX.LAB:7860")),
        *((host, 403) for host in ("evil.example", "evil.example:7860", "localhost.evil.example")),
        *((host, 403) for host in ("127.0.0.1.evil.example", "box", "", "127.0.0.1@evil.example", "0x7f.1")),
        ("[::1", 400),
    ],
)
def test_names_that_others_can_point_here_are_refused(client: TestClient, host: str, status: int) -> None:
    found = client.get("/theme.css", headers={"host": host})
    assert found.status_code == status
    if status == 403:
        assert "--allow-host" in found.json()["detail"]


def test_requests_that_other_sites_make_are_refused(client: TestClient, folder: Path) -> None:
    own = {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    foreign = [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://127.0.0.1:7861"},
        {"origin": "http://127.0.0.1"},
        {**own, "origin": "http://evil.example"},
        {**own, "sec-fetch-site": "cross-site"},
        {**own, "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    ]
    before = left(folder)
    for headers in foreign:
        found = client.post(UPLOAD, content=HEAD + b"x" + END, headers={**FORM, **headers})
        assert (found.status_code, found.json()["detail"]) == (403, "another site asks for this")
        assert client.post(ASK, json=question(folder), headers=headers).status_code == 403
    assert left(folder) == before
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client.get("/", headers=link).status_code == 200
    assert client.get("/", headers={**link, "sec-fetch-dest": "iframe"}).status_code == 403
    assert client.get("/theme.css", headers=foreign[-2]).status_code == 403
    assert client.post(UPLOAD, content=HEAD + b"x" + END, headers={**FORM, **own}).status_code == 200


def test_every_answer_forbids_frames_and_other_sites(client: TestClient) -> None:
    for path in ("/", "/theme.css", "/nothing", "/gradio_api/queue/data"):
        headers = client.get(path).headers
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"] == "frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_two_hosts_are_none(client: TestClient) -> None:
    found = client.get("/", headers=[("host", "127.0.0.1"), ("host", "evil.example")])
    assert found.status_code == 400


# The queue.


def test_one_address_can_not_fill_the_queue() -> None:
    there = Visitors()
    for number in range(MOST_OF_ONE):
        there.enter("10.0.0.1", f"a{number}")
    with pytest.raises(RefusalError, match="too many questions wait"):
        there.enter("10.0.0.1", "more")
    there.enter("10.0.0.2", "b")
    with pytest.raises(RefusalError):
        there.enter("10.0.0.2", "b")
    there.leave("a0")
    there.enter("10.0.0.1", "more")


def test_the_queue_is_bounded_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Visitors()
    for number in range(MOST_WAITING):
        there.enter(f"10.0.0.{number}", f"a{number}")
    with pytest.raises(RefusalError) as refused:
        there.enter("10.0.1.1", "more")
    assert refused.value.status == 503  # of which the page says that it is busy
    monkeypatch.setattr(visitors, "FORGET_SECONDS", 0.0)
    there.enter("10.0.1.1", "more")


def test_joins_are_refused_while_a_session_waits(client: TestClient, page: Gate, folder: Path) -> None:
    assert client.post(ASK, json=question(folder, session_hash="s0")).status_code == 200
    statuses = [
        client.post(ASK, json=question(folder, session_hash=f"s{number}")).status_code
        for number in (0, *range(1, 9))
    ]
    assert statuses.count(503) >= len(statuses) - MOST_OF_ONE
    assert heard(client, "s0")[-2]["success"]
    end = time.monotonic() + 60
    while page.visitors._waiting and time.monotonic() < end:  # the others are answered, though nobody listens
        time.sleep(0.05)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/queue/data",
        "/gradio_api/queue/data?session_hash=",
        "/gradio_api/queue/data?session_hash=a b",
        "/gradio_api/queue/data?session_hash=a&session_hash=b",
        "/gradio_api/queue/data?session_hash=" + "a" * 70,
        "/gradio_api/upload_progress",
        "/gradio_api/upload_progress?upload_id=../x",
    ],
)
def test_streams_without_a_session(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/?view=api",
        "/?deep_link=x",
        "/config?page=nothing",
        "/assets/../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/assets/nothing.js",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=" + "n" * 5000,
        "/gradio_api/file=a%00b",
        "/gradio_api/queue/data?session_hash=unknown",
        "/gradio_api/upload_progress?upload_id=unknown",
    ],
)
def test_odd_reads_log_nothing(client: TestClient, path: str) -> None:
    found = client.get(path)
    assert found.status_code in (200, 400, 403, 404)
    assert "root:" not in found.text
    assert "Traceback" not in found.text
