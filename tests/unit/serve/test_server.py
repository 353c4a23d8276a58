"""The server as its clients use it: the official client of OpenAI, curl, and many at once."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from adatp import Session
from adatp.cli import main
from adatp.methods import METHODS
from adatp.models import family_of
from adatp.serve import batching
from adatp.serve.settings import Settings
from adatp.tiny import CLIP
from clips import write_clip
from serving import (
    Command,
    data_url,
    gauge,
    pieces_of,
    question,
    served,
    settle,
    text_part,
    until_running,
    video_part,
)

pytestmark = pytest.mark.enable_socket

QUESTION = "what colour is the star ?"
QUESTIONS = [
    QUESTION,
    "what is the last thing ?",
    "where is the star ?",
    "what shape is the last thing ?",
    "what colour is the moon ?",
    "what is the first thing ?",
    "where is the last thing ?",
    "what colour is the last thing ?",
]
LONG = {"ignore_eos": True, "max_tokens": 16}
SETTINGS = Settings(name="adatp-embedded", most_new_tokens=3000, batch_wait=1.0, shutdown_seconds=5)


@pytest.fixture(scope="module")
def session() -> Session:
    session = Session(device="cpu")
    _ = session.model
    return session


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:
    with served(session, SETTINGS) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def clip() -> str:
    return data_url(CLIP)


def post(address: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=600, **options)


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    text = response.json()["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


# What is answered.


@pytest.mark.parametrize("method", METHODS)
def test_each_method_answers_as_adatp_ask(
    client: openai.OpenAI,
    clip: str,
    tmp_path: Path,
    method: str,
    session: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adatp.cli.ask.open_session", lambda *_: session)  # loaded once
    flops = None if METHODS[method].flops is None else 0.4
    options = [] if flops is None else ["--flops", str(flops)]
    file = tmp_path / "ask.json"
    base = ["ask", str(CLIP), QUESTION, "--method", method, "--frames", "8", "--json", str(file)]
    assert main([*base, "--device", "cpu", *options]) == 0
    theirs = json.loads(file.read_text())
    answer = client.chat.completions.create(
        model="adatp-embedded",
        messages=question(clip, QUESTION)["messages"],
        extra_body={"method": method, "frames": 8, **({} if flops is None else {"flops": flops})},
    )
    assert answer.choices[0].message.content == theirs["answer"]
    assert answer.choices[0].finish_reason == "stop"
    usage: Any = answer.usage
    report = theirs["report"]
    assert usage.prompt_tokens == report["prompt_tokens"][0]
    assert usage.kept_tokens == report["tokens"][-1][0]
    assert usage.visual_tokens_kept == report["visual_tokens"][-1][0]
    assert usage.flops_ratio == pytest.approx(report["flops_ratio"], rel=1e-12)
    assert (usage.completion_tokens, usage.method) == (theirs["new_tokens"], method)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {},
        LONG,
        {**LONG, "stop": ["user"]},
        {**LONG, "temperature": 1.5, "seed": 7, "top_p": 0.9},
        {**LONG, "temperature": 1.5, "seed": 7, "n": 3, "stop": "the"},
        {**LONG, "n": 2},
    ],
)
def test_streaming_gives_what_is_given_at_once(address: str, clip: str, fields: dict[str, Any]) -> None:
    body = question(clip, **fields)
    at_once = post(address, body).json()
    usage = {"include_usage": True}
    streamed = pieces_of(post(address, {**body, "stream": True, "stream_options": usage}))
    texts = [""] * len(at_once["choices"])
    reasons: list[Any] = [None] * len(texts)
    for piece in streamed[:-1]:
        assert piece["usage"] is None
        [choice] = piece["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    assert texts == [choice["message"]["content"] for choice in at_once["choices"]]
    assert reasons == [choice["finish_reason"] for choice in at_once["choices"]]
    assert streamed[-1]["choices"] == []
    assert streamed[-1]["usage"] == at_once["usage"]
    if fields:
        assert len(streamed) > len(texts) + 3


def test_the_official_client_streams(client: openai.OpenAI, clip: str) -> None:
    chunks = client.chat.completions.create(
        model="adatp-embedded",
        messages=question(clip)["messages"],
        max_tokens=8,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces).startswith("yellow")
    assert len(pieces) > 4


def test_curl_is_answered(address: str, tmp_path: Path, clip: str) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(question(clip)))
    done = subprocess.run(
        [
            *("curl", "--silent", "--fail-with-body", "-H", "Content-Type: application/json"),
            *("--data", f"@{body}", f"{address}/v1/chat/completions"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "yellow"


def test_several_turns_and_an_image_go_to_the_model(address: str, session: Session, clip: str) -> None:
    turns = [
        {"role": "user", "content": [video_part(clip), text_part(QUESTION)]},
        {"role": "assistant", "content": "yellow"},
        {"role": "user", "content": "what shape is the last thing ?"},
    ]
    mine = post(address, {"messages": turns})
    chat = [{"role": "user", "content": [{"type": "video", "video": CLIP}, text_part(QUESTION)]}, *turns[1:]]
    assert said(mine) == session.chat(chat).text  # type: ignore[arg-type]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "auto"}}
    refused = post(address, {"messages": [{"role": "user", "content": [video_part(clip), image]}]})
    assert refused.status_code == 400
    assert "can't be read as an image" in refused.json()["error"]["message"]


@pytest.mark.parametrize("fields", [{}, {**LONG, "temperature": 1.2, "seed": 5}])
def test_eight_clients_at_once_are_answered_as_each_alone(
    address: str, clip: str, fields: dict[str, Any]
) -> None:
    lengths = [3, 14, 7, 12, 2, 20, 9, 16] if fields else [None] * 8
    bodies = [
        question(clip, text, **{**fields, **({"max_tokens": length} if length else {})})
        for text, length in zip(QUESTIONS, lengths, strict=True)
    ]
    alone = [post(address, body) for body in bodies]
    batches = gauge(address, "adatp_batch_rows_count")
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: post(address, body), bodies))
    assert [said(each) for each in together] == [said(each) for each in alone]
    assert [each.json()["usage"] for each in together] == [each.json()["usage"] for each in alone]
    assert len({said(each) for each in alone}) > 2
    assert gauge(address, "adatp_batch_rows_count") - batches <= 3  # eight requests in few batches


def test_a_short_answer_does_not_wait_for_a_long_one_of_its_batch(address: str, clip: str) -> None:
    begun = time.monotonic()
    took: dict[int, float] = {}

    def ask(tokens: int) -> None:
        post(address, question(clip, ignore_eos=True, max_tokens=tokens))
        took[tokens] = time.monotonic() - begun

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ask, (2, 120)))
    assert took[2] < took[120] / 1.5


def test_methods_do_not_mix_in_a_batch(address: str, clip: str) -> None:
    bodies = [question(clip, method=name, flops=0.4) for name in ("adatp", "fastv", "random", "visionzip")]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda body: post(address, body).json()["usage"]["method"], bodies))
    assert found == ["adatp", "fastv", "random", "visionzip"]


def test_seeds_draw_equal_answers_and_others_do_not(address: str, clip: str) -> None:
    drawn = {**LONG, "temperature": 2.0}
    first, again = (said(post(address, question(clip, **drawn, seed=1))) for _ in range(2))
    assert first == again
    others = {said(post(address, question(clip, **drawn, seed=seed))) for seed in (2, 3)}
    assert first not in others
    free = {said(post(address, question(clip, **drawn))) for _ in range(2)}
    assert len(free) == 2


@pytest.mark.filterwarnings("ignore:the prompt takes .* the least that adatp can do")
def test_a_target_out_of_reach_is_met_as_far_as_it_goes(address: str, clip: str) -> None:
    """As `adatp ask` does it, whether a request names the target or the server has it; the usage says so."""
    low = post(address, question(clip, flops=1e-4)).json()["usage"]
    assert 1e-4 < low["flops_ratio"] < 0.1
    assert "out of reach" not in low["out_of_reach"]
    assert low["out_of_reach"]
    assert post(address, question(clip)).json()["usage"]["out_of_reach"] is None


def test_a_video_is_encoded_once_for_all_answers_that_are_drawn(
    address: str, clip: str, session: Session
) -> None:
    tower = family_of(session.config.model_type).tower(session.model)
    frames: list[int] = []
    inside = next(module for module in tower.modules() if isinstance(module, torch.nn.Conv2d))
    hook = inside.register_forward_pre_hook(lambda _, given: frames.append(len(given[0])))
    drawn = {**LONG, "temperature": 2.0, "frames": 8}
    try:
        alone = [said(post(address, question(clip, **drawn, seed=seed))) for seed in (4, 5, 6)]
        frames.clear()
        together = post(address, question(clip, **drawn, seed=4, n=3)).json()
    finally:
        hook.remove()
    assert [choice["message"]["content"] for choice in together["choices"]] == alone
    assert frames == [8]


# What goes wrong.


def test_errors_are_those_of_the_official_client(client: openai.OpenAI, clip: str) -> None:
    messages: Any = question(clip)["messages"]
    with pytest.raises(openai.BadRequestError, match=r"0\.0001 of vanilla FLOPs is out of reach"):
        client.chat.completions.create(
            model="adatp-embedded", messages=messages, extra_body={"flops": 1e-4, "strict": True}
        )
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-5' here"):
        client.chat.completions.create(model="gpt-5", messages=messages)
    with pytest.raises(openai.BadRequestError, match="no method 'nothing'; there are adatp, vanilla"):
        client.chat.completions.create(
            model="adatp-embedded", messages=messages, extra_body={"method": "nothing"}
        )
    with pytest.raises(openai.BadRequestError, match="method 'vanilla' has no FLOPs target"):
        client.chat.completions.create(
            model="adatp-embedded", messages=messages, extra_body={"method": "vanilla", "flops": 0.5}
        )
    with pytest.raises(openai.BadRequestError, match="tools: this server does not do that"):
        client.chat.completions.create(
            model="adatp-embedded",
            messages=messages,
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        )
    assert [model.id for model in client.models.list()] == ["adatp-embedded"]
    assert client.models.retrieve("adatp-embedded").id == "adatp-embedded"


def test_a_method_of_http_that_is_not_known_is_answered_with_those_that_are(address: str) -> None:
    found = httpx.get(f"{address}/v1/chat/completions")
    assert (found.status_code, found.headers["allow"]) == (405, "POST")
    assert "Method Not Allowed" in found.json()["error"]["message"]


def hang_up_amid(address: str, body: dict[str, Any]) -> None:
    """Ask, and hang up once the answer is being written."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as connection:
        content = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        until_running(address)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_its_place_within_a_second(
    session: Session, clip: str, stream: bool
) -> None:
    body = question(clip, ignore_eos=True, max_tokens=2500, stream=stream)
    with served(session, replace(SETTINGS, max_requests=1)) as small:
        took = []
        for number in range(3):  # the machine may be busy with others for a second
            hang_up_amid(small, body)
            took.append(settle(small, 20, "adatp_requests_taken"))
            settle(small, 60)  # the model too, at its next token
            assert gauge(small, "adatp_requests_cancelled_total") == number + 1
            if took[-1] < 1:
                break
        assert min(took) < 1
        assert post(small, question(clip, max_tokens=1)).status_code == 200


def test_a_request_that_waits_is_dropped_when_its_client_hangs_up(session: Session, clip: str) -> None:
    with served(session, replace(SETTINGS, max_batch=1, batch_wait=0.0)) as small:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(post, small, question(clip, ignore_eos=True, max_tokens=150))
            until_running(small)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{small}/v1/chat/completions", json=question(clip), timeout=0.5)
            for _ in range(500):
                if gauge(small, "adatp_requests_taken") == 1:
                    break
                time.sleep(0.02)
            assert gauge(small, "adatp_requests_waiting") == 0
            assert running.result().status_code == 200
        assert gauge(small, "adatp_batch_rows_count") == 1  # the other one was never asked


def test_beyond_the_limit_is_429_and_places_come_back(session: Session, clip: str) -> None:
    with served(session, replace(SETTINGS, max_requests=3)) as small:
        body = question(clip, ignore_eos=True, max_tokens=60)
        with ThreadPoolExecutor(12) as pool:
            found = list(pool.map(lambda _: post(small, body), range(12)))
        statuses = sorted(each.status_code for each in found)
        assert statuses.count(200) == 3
        assert statuses.count(429) == 9
        [refused] = {each.headers["retry-after"] for each in found if each.status_code == 429}
        assert refused == "1"
        assert post(small, question(clip)).status_code == 200
        settle(small, 20)


def test_a_batch_that_fails_is_answered_one_by_one(
    session: Session, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Session.answer_batch

    def fails(self: Session, prompts: Any, *rest: Any, **options: Any) -> Any:
        if len(prompts) > 1:
            raise MemoryError
        if prompts[0].question == QUESTIONS[1]:
            raise RuntimeError("a bug")
        return answer(self, prompts, *rest, **options)

    monkeypatch.setattr(Session, "answer_batch", fails)
    with served(session, SETTINGS) as small, ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda text: post(small, question(clip, text)), QUESTIONS[:3]))
        assert [each.status_code for each in found] == [200, 500, 200]
        assert "the server's log" in found[1].json()["error"]["message"]
        assert "bug" not in found[1].text
        assert gauge(small, "adatp_requests_cancelled_total") == 0  # no client hung up
        assert post(small, question(clip)).status_code == 200


# Around it.


def test_memory_is_given_back_after_batches(
    session: Session, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(batching, "trimmer", lambda: lambda: given_back.append(True))
    with served(session, SETTINGS) as small:
        assert post(small, question(clip)).status_code == 200
    assert given_back


def test_keys_are_asked_for(session: Session, clip: str) -> None:
    with served(session, replace(SETTINGS, keys=("first-key", "second-key"))) as small:
        for headers in ({}, {"Authorization": "Bearer nothing"}, {"Authorization": "first-key"}):
            for path in ("/v1/models", "/metrics", "/docs", "/v1/chat/completions"):
                refused = httpx.get(f"{small}{path}", headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert httpx.get(f"{small}/health").json() == {"status": "ok"}
        for key in ("first-key", "second-key"):
            client = openai.OpenAI(base_url=f"{small}/v1", api_key=key, max_retries=0)
            assert len(client.models.list().data) == 1
        with pytest.raises(openai.AuthenticationError, match="no valid API key"):
            openai.OpenAI(base_url=f"{small}/v1", api_key="third", max_retries=0).models.list()


def test_the_page_and_the_schema_describe_the_request(address: str) -> None:
    schema = httpx.get(f"{address}/openapi.json").json()
    chat = schema["paths"]["/v1/chat/completions"]["post"]
    body = chat["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    fields = schema["components"]["schemas"][body.rpartition("/")[2]]["properties"]
    assert {"messages", "method", "flops", "frames", "stop", "seed", "n"} <= set(fields)
    text = json.dumps(schema)
    for part in set(text.split('"#/components/schemas/')[1:]):
        assert part.partition('"')[0] in schema["components"]["schemas"]
    page = httpx.get(f"{address}/docs").text
    assert "/v1/chat/completions" in page
    assert "flops_ratio" in page
    assert "http://" not in page.replace("<!doctype", "")
    assert "<script" not in page


def test_metrics_count(address: str, clip: str) -> None:
    names = ("adatp_prompt_tokens_total", "adatp_kept_tokens_total", "adatp_completion_tokens_total")
    before = [gauge(address, name) for name in names]
    usage = post(address, question(clip)).json()["usage"]
    after = [gauge(address, name) for name in names]
    counted = [b - a for a, b in zip(before, after, strict=True)]
    assert counted == [usage["prompt_tokens"], usage["kept_tokens"], usage["completion_tokens"]]


def test_local_files_are_read_where_that_is_allowed(session: Session, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    inside = write_clip(tmp_path / "in" / "a clip.mp4", 8, size=(96, 96))
    with served(session, replace(SETTINGS, local_media=tmp_path / "in")) as small:
        assert post(small, question(inside.as_uri(), frames=4)).status_code == 200
        assert post(small, question(inside.as_uri(), frames=4, stream=True)).status_code == 200


# The command.


def test_the_command_serves_and_stops_when_answers_are_given(clip: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\nof-the-file\n")
    command = Command(
        ["--api-key-file", str(keys), "--max-tokens", "2000"], {"ADATP_API_KEY": "of-the-shell"}
    )
    heaps = command.heaps()
    headers = {"Authorization": "Bearer of-the-file"}
    found = httpx.get(f"{command.address}/v1/models", headers={"Authorization": "Bearer of-the-shell"})
    assert found.json()["data"][0]["id"] == "adatp-embedded"
    with ThreadPoolExecutor(1) as pool:
        body = question(clip, ignore_eos=True, max_tokens=100)
        running = pool.submit(post, command.address, body, headers=headers)
        until_running(command.address, headers)
        assert command.heaps() == heaps  # the readers' threads and the model's made none of their own
        code, err = command.stop()
        assert running.result().json()["usage"]["completion_tokens"] == 100
    assert (code, err) == (0, "")


def test_answers_that_take_too_long_are_given_up(session: Session, clip: str) -> None:
    """When the server is stopped; those who wait are told."""
    with ThreadPoolExecutor(1) as pool:
        with served(session, replace(SETTINGS, shutdown_seconds=0.3)) as small:
            running = pool.submit(post, small, question(clip, ignore_eos=True, max_tokens=3000))
            until_running(small)
            begun = time.monotonic()
        assert time.monotonic() - begun < 60
        assert running.result().status_code == 503
        assert running.result().json()["error"]["message"] == "the server is being stopped"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--allowed-local-media-path", "{tmp}/nothing"], "no such folder"),
        (["--api-key-file", "{tmp}/nothing"], "can't be read (No such file"),
        (["--api-key-file", "{tmp}/empty"], "no key in it"),
        (["--api-key-file", "{tmp}/blanks"], "printable ASCII"),
        (["--method", "nothing"], "no method 'nothing'"),
        (["--method", "vanilla", "--flops", "0.5"], "has no FLOPs target"),
        (["--model", "{tmp}"], "no model in this folder"),
        (["--host", "no such host"], "no such address"),
        (["--max-batch", "0"], "--max-batch"),
        (["--dtype", "int8"], "--dtype is one of"),
        (["--max-new-tokens", "2000"], "--max-new-tokens 2000 is more than the limit, --max-tokens 1024"),
        (["--max-tokens", "8"], "--max-new-tokens 64 is more than the limit, --max-tokens 8"),
        (["--max-frames", "16"], "--frames 32 is more than the limit, --max-frames 16"),
    ],
)
def test_what_can_not_be_served_is_one_line(
    run: Any, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "blanks").write_text("a b\n")
    code, out, err = run("serve", "--port", "0", *(each.format(tmp=tmp_path) for each in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("adatp: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.1 alone is this machine")
def test_the_address_that_is_printed_is_one_to_ask_by(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def served_with(session: Session, settings: Settings, listener: socket.socket, ready: Any) -> None:
        ready()
        print(settings.hosts)

    monkeypatch.setattr("adatp.serve.server.serve", served_with)
    code, out, _ = run("serve", "--port", "0", "--host", "127.0.0.2")
    assert code == 0
    assert out.startswith("http://127.0.0.2:")
    assert "'127.0.0.2'" in out


def test_a_port_that_is_taken_is_one_line(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, err = run("serve", "--port", taken.getsockname()[1])
    assert code == 2
    assert "can't be listened on" in err
