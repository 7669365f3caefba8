"""The API: who may do what, what is refused, and what an answer does to the catalog."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason='no server: pip install "everlearn[serve]"')

import sqlalchemy as sa
from fastapi.testclient import TestClient

from everlearn import files
from everlearn.catalog import labels, leases, samples, scenes
from everlearn.catalog.tables import sample, token
from everlearn.serve import run
from everlearn.serve.app import app
from everlearn.serve.auth import MOST_WRONG
from everlearn.serve.guard import MOST_BYTES
from everlearn.types import Box, Scene
from everlearn.workspace import Workspace
from tests.serve import desk

REVIEW = "/api/v1/review"


class Person:
    """Somebody with a token, who talks JSON."""

    def __init__(self, client: TestClient, secret: str) -> None:
        self.client, self.headers = client, {"Authorization": f"Bearer {secret}"}

    def __call__(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        said = {"json": body} if body is not None else {}
        answer = self.client.request(method, path, headers=self.headers, **said)
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert set(answer.json()["error"]) == {"code", "message", "remedy"}
        return answer.json() if answer.content else None

    def next(self, **wanted: Any) -> Any:
        return self("POST", f"{REVIEW}/next", wanted)["item"]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Workspace, list[str]]:
    return desk.desk(tmp_path / "w", 3)


@pytest.fixture
def client(made: tuple[Workspace, list[str]]) -> Iterator[TestClient]:
    with TestClient(app(made[0])) as client:
        yield client


@pytest.fixture
def mina(client: TestClient, made: tuple[Workspace, list[str]]) -> Person:
    return Person(client, desk.token(made[0]))


def _scene(workspace: Workspace, id: str) -> Scene:
    with workspace.catalog.read() as tx:
        return scenes.of(tx, [id])[id]


def _one(workspace: Workspace, id: str) -> samples.Sample:
    with workspace.catalog.read() as tx:
        return samples.some(tx, [id])[id]


# --- who may come in ----------------------------------------------------------------------------------------------


def test_nothing_without_a_token(client: TestClient) -> None:
    """Every route but health, signing in and out, the description and the pages."""
    free = {"/healthz", "/api/v1/session"}
    routes = client.get("/api/v1/openapi.json").json()["paths"]
    assert f"{REVIEW}/{{id}}/answer" in routes
    for path, methods in routes.items():
        for method in methods:
            answer = client.request(method, path.replace("{id}", "0" * 32).replace("{name}", "x"), json={})
            if path not in free:
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "denied"
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/review", follow_redirects=False).headers["location"] == "/sign-in"


def test_a_cookie_opens_the_door_to_our_own_page_only(client: TestClient, made: tuple[Workspace, list[str]]) -> None:
    secret = desk.token(made[0], "미나")
    answer = client.post("/api/v1/session", json={"token": f" {secret}\n"})
    assert answer.json() == {"name": "미나", "role": "reviewer"}
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/v1/session").json()["name"] == "미나"
    page = client.get("/review")
    assert page.status_code == 200
    assert secret not in page.text
    ours = {"Origin": "http://testserver"}
    for headers, status in [(ours, 200), ({}, 403), ({"Origin": "http://evil.example"}, 403),
                            (ours | {"Sec-Fetch-Site": "cross-site"}, 403)]:  # fmt: skip
        assert client.post(f"{REVIEW}/next", json={}, headers=headers).status_code == status, headers
    assert client.delete("/api/v1/session", headers=ours).status_code == 204
    assert client.get("/api/v1/session").status_code == 401


def test_a_token_in_an_address_opens_nothing(client: TestClient, made: tuple[Workspace, list[str]]) -> None:
    secret = desk.token(made[0])
    assert client.get(f"{REVIEW}/counts?token={secret}&access_token={secret}").status_code == 401
    basic = {"Authorization": f"Basic {secret}"}
    assert client.get(f"{REVIEW}/counts", headers=basic).status_code == 401


def test_wrong_tries_end(client: TestClient, made: tuple[Workspace, list[str]], mina: Person) -> None:
    """Who was let in before goes on working, though the tries come from the same address."""
    mina("GET", f"{REVIEW}/counts")
    wrong = [client.post("/api/v1/session", json={"token": f"{n:016x}.nothing"}) for n in range(MOST_WRONG + 1)]
    assert [one.status_code for one in wrong] == [401] * MOST_WRONG + [429]
    assert wrong[-1].headers["retry-after"]
    mina("GET", f"{REVIEW}/counts")
    assert client.post("/api/v1/session", json={"token": desk.token(made[0])}).status_code == 429


@pytest.mark.parametrize("origin", ["http://[", "null", "", "http://evil.example", "http://testserver.evil.example"])
def test_an_origin_that_is_none(client: TestClient, made: tuple[Workspace, list[str]], origin: str) -> None:
    body, headers = {"token": desk.token(made[0])}, {"Origin": origin, "Host": "" if origin == "null" else "testserver"}
    assert client.post("/api/v1/session", json=body, headers=headers).status_code == 403


def test_tokens_with_odd_letters_are_nobodys(tmp_path: Path, postgres_url: str) -> None:
    workspace, _ = desk.desk(tmp_path / "w", 1, catalog=postgres_url)
    with TestClient(app(workspace)) as client:
        for token in ("\0.x", "%.x", ".", "\x7f" * 16 + ".x"):
            assert client.post("/api/v1/session", json={"token": token}).status_code == 401


def test_whoever_says_nothing_keeps_nobody_out(
    made: tuple[Workspace, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "PATIENCE", 0.3)
    halves = (
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST /api/v1/session HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
    )
    with desk.serving(made[0]) as url:
        there = urlsplit(url)
        open_ = [socket.create_connection((there.hostname, there.port), timeout=20) for _ in halves]
        for one, said in zip(open_, halves, strict=True):
            one.sendall(said)
        for one in open_:
            while one.recv(1000):  # closed by the server, in the end
                pass
            one.close()
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.status == 200


def test_admins_make_and_revoke_tokens(client: TestClient, made: tuple[Workspace, list[str]], mina: Person) -> None:
    boss = Person(client, desk.token(made[0], "boss", "admin"))
    mina("GET", "/api/v1/reviewers", status=403)
    mina("POST", "/api/v1/reviewers", {"name": "evil", "role": "admin"}, status=403)
    new = boss("POST", "/api/v1/reviewers", {"name": "joon"}, status=201)
    joon = Person(client, new["token"])
    assert joon("GET", "/api/v1/session")["name"] == "joon"
    listed = boss("GET", "/api/v1/reviewers")
    assert {one["name"] for one in listed} == {"mina", "boss", "joon"}
    assert new["token"] not in json.dumps(listed)
    assert boss("DELETE", "/api/v1/reviewers/joon") == {"revoked": [new["id"]]}
    joon("GET", "/api/v1/session", status=401)
    boss("DELETE", "/api/v1/reviewers/joon", status=404)
    boss("POST", "/api/v1/reviewers", {"name": "a", "role": "root"}, status=422)
    with made[0].catalog.read() as tx:
        used = tx.execute(sa.select(token.c.name).where(token.c.used_at.is_not(None))).scalars().all()
    assert set(used) == {"mina", "boss", "joon"}


# --- what is refused ----------------------------------------------------------------------------------------------


def test_headers_of_everything(client: TestClient, mina: Person, made: tuple[Workspace, list[str]]) -> None:
    mina.next()
    paths = ["/sign-in", "/static/review.js", "/nothing", "/healthz", f"{REVIEW}/{made[1][0]}/image"]
    for path in paths:
        headers = client.get(path, headers=mina.headers).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        if path != "/static/review.js":
            assert headers["cache-control"] == "no-store", path
    policy = client.get("/sign-in").headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "script-src 'self'" in policy


def test_no_way_out(mina: Person) -> None:
    up = "..%2f..%2f..%2fetc%2fpasswd"
    pages = ["../review.html", "%2e%2e/review.html", "..%2f..%2fapp.py", "/etc/passwd"]
    ids = [up, "0" * 31, "G" * 32, "0" * 32, "0" * 33]
    for path in [*(f"/static/{one}" for one in pages), *(f"{REVIEW}/{one}/image" for one in ids)]:
        answer = mina.client.get(path, headers=mina.headers)
        assert answer.status_code in (404, 422), path
        assert set(answer.json()) == {"error"}


def test_bodies_have_an_end(mina: Person) -> None:
    large = b'{"having": ["' + b"0" * MOST_BYTES + b'"]}'
    sent = {"headers": mina.headers | {"Content-Type": "application/json"}}
    for content in (large, iter([large[:1000], large[1000:]])):  # with its length, and in pieces that do not say it
        answer = mina.client.post(f"{REVIEW}/next", content=content, **sent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    box = {"label": "a", "x": 0.1, "y": 0.1, "width": 0.1, "height": 0.1}
    id = mina.next()["sample"]
    wrong = [box | {"x": 1.5}, box | {"width": -0.1}, box | {"label": "a" * 301}, box | {"more": 1}]
    bodies = [{"boxes": [box] * 1001}, {"label": ""}, {"boxes": [box], "more": 1}, {"about": "a"}, [1], {"boxes": 7}]
    for body in [*bodies, *({"boxes": [one]} for one in wrong)]:
        mina("POST", f"{REVIEW}/{id}/answer", body, status=422)
    for raw in (b"{", b"", b'{"boxes": [{"label": "a", "x": NaN, "y": 0, "width": 1, "height": 1}]}', b"\xff\xfe"):
        answer = mina.client.post(f"{REVIEW}/{id}/answer", content=raw, **sent)
        assert (answer.status_code, set(answer.json())) == (422, {"error"}), raw
    mina("POST", f"{REVIEW}/{id}/answer", {"boxes": [box | {"width": 0}]}, status=400)
    mina("POST", f"{REVIEW}/{id}/answer", {}, status=400)
    mina("POST", f"{REVIEW}/{id}/answer", {"label": "a class"}, status=400)
    assert mina.next()["sample"] == id, "all of it changed nothing"


def test_faults_are_told_without_their_words(mina: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(leases, "counts", broken)
    error = mina("GET", f"{REVIEW}/counts", status=500)["error"]
    assert error["code"] == "fault"
    assert "secret" not in json.dumps(error)


def test_the_log_has_no_secrets(made: tuple[Workspace, list[str]], mina: Person) -> None:
    from everlearn import logs

    logs.setup("INFO", made[0].root / "training_logs")
    try:
        secret = desk.token(made[0], "누구")
        mina.client.post("/api/v1/session", json={"token": secret})
        mina.client.get(f"{REVIEW}/counts?token={secret}", headers={"Cookie": "a=b", **mina.headers})
        item = mina.next()
        mina.client.get(f"/{secret}")
        mina("POST", f"{REVIEW}/{item['sample']}/answer", {"boxes": [], "about": ["비밀"]})
    finally:
        logs.setup("INFO", None)
    (log,) = (made[0].root / "training_logs").glob("everlearn-*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert (lines[-1]["route"], lines[-1]["sample"]) == (f"{REVIEW}/{{id}}/answer", item["sample"])
    assert [one["status"] for one in lines] == [200, 200, 200, 404, 200]
    assert all(one["reviewer"] for one in (lines[1], lines[2], lines[4]))
    for word in (secret, secret.partition(".")[2], mina.headers["Authorization"][7:], "누구", "비밀", "mina"):
        assert word not in log.read_text()


# --- the queue ----------------------------------------------------------------------------------------------------


def test_an_answer_is_the_persons_scene(made: tuple[Workspace, list[str]], mina: Person) -> None:
    workspace, (first, second, _) = made
    item = mina.next()
    assert item["sample"] == first
    assert item["boxes"]
    assert all(box["confidence"] == 0.83 for box in item["boxes"])
    assert set(item["about"]) >= {box["label"] for box in item["boxes"]}
    drawn = [{"label": "사람/배달원", "x": 0.25, "y": 0.5, "width": 0.75, "height": 0.5}]
    done = mina("POST", f"{REVIEW}/{first}/answer", {"boxes": drawn, "about": item["about"], "next": {}})
    assert _scene(workspace, first) == scenes.canonical(
        Scene((Box("사람/배달원", 0.25, 0.5, 0.75, 0.5),), (*item["about"], "사람"))
    )
    with workspace.catalog.read() as tx:
        last = labels.history(tx, first)[-1]
    assert (last["by"], last["who"]) == ("person", "mina")
    assert _one(workspace, first).status == "labelled"
    assert workspace.where(_one(workspace, first).key).rpartition("/")[2].startswith("scene_")
    assert done["item"]["sample"] == second
    assert "사람" in done["item"]["about"], "a class that was drawn is looked for from now on"
    assert "사람/배달원" in [one["name"] for one in mina("GET", f"{REVIEW}/labels")["labels"]]
    assert done["waiting"] == {"queued": 2, "mine": 1, "others": 0}
    mina("POST", f"{REVIEW}/{first}/answer", {"boxes": []}, status=409)


def test_taking_back_and_skipping(made: tuple[Workspace, list[str]], client: TestClient, mina: Person) -> None:
    workspace, (first, second, third) = made
    joon = Person(client, desk.token(workspace, "joon"))
    proposed = mina.next()["boxes"]
    mina("POST", f"{REVIEW}/{first}/answer", {"boxes": []})
    joon("POST", f"{REVIEW}/{first}/undo", status=400)  # it is not his
    again = joon("POST", f"{REVIEW}/{first}/skip", {})["item"]
    assert again["sample"] == second
    back = mina("POST", f"{REVIEW}/{first}/undo")["item"]
    assert (back["sample"], back["boxes"], back["reason"]) == (first, proposed, labels.UNDONE)
    assert _one(workspace, first).label is None
    assert mina("POST", f"{REVIEW}/{first}/skip", {})["item"]["sample"] == third
    joon("POST", f"{REVIEW}/{second}/skip", {"skipped": [first]})
    mina("POST", f"{REVIEW}/{second}/undo", status=400)  # nothing was said of it
    mina("POST", f"{REVIEW}/{'0' * 32}/undo", status=404)


def test_an_image_is_shown_to_whom_it_was_given(
    made: tuple[Workspace, list[str]], client: TestClient, mina: Person
) -> None:
    workspace, (first, second, _) = made
    joon, boss = (Person(client, desk.token(workspace, n, r)) for n, r in [("joon", "reviewer"), ("boss", "admin")])
    mina.next()
    answer = client.get(f"{REVIEW}/{first}/image", headers=mina.headers)
    with workspace.store.open(_one(workspace, first).key) as file:
        assert answer.content == file.read()
    assert answer.headers["content-type"] == "image/png"
    joon("GET", f"{REVIEW}/{first}/image", status=403)
    mina("GET", f"{REVIEW}/{second}/image", status=403)
    assert client.get(f"{REVIEW}/{first}/image", headers=boss.headers).status_code == 200
    joon("POST", f"{REVIEW}/{first}/answer", {"boxes": []}, status=409)
    joon("POST", f"{REVIEW}/return", {"samples": [first]}, status=204)
    assert mina("POST", f"{REVIEW}/renew", {"samples": [first, second]})["samples"] == sorted([first, second])
    mina("POST", f"{REVIEW}/return", {"samples": [second]}, status=204)


def test_many_at_once_never_share_an_image(tmp_path: Path, postgres_url: str) -> None:
    """Through the API, on PostgreSQL."""
    workspace, there = desk.desk(tmp_path / "w", 24, catalog=postgres_url)
    with TestClient(app(workspace)) as client:
        people = [Person(client, desk.token(workspace, name)) for name in ("mina", "joon", "sora")]

        def work(person: Person) -> list[str]:
            done, item = [], person.next()
            while item:
                done.append(item["sample"])
                item = person("POST", f"{REVIEW}/{item['sample']}/answer", {"boxes": [], "next": {}})["item"]
            return done

        with ThreadPoolExecutor(3) as pool:
            found = [id for ids in pool.map(work, people) for id in ids]
    assert sorted(found) == sorted(there)
    with workspace.catalog.read() as tx:
        assert samples.counts(tx)["labelled"] == 24
    workspace.catalog.close()


def test_an_answer_waits_for_nobody(made: tuple[Workspace, list[str]], mina: Person) -> None:
    """Another process works on the workspace, and may be reading the files: they stay where they are, and follow."""
    workspace, (first, *_) = made
    before = _one(workspace, first).key
    with Workspace.open(workspace.root).lock():
        mina.next()
        mina("POST", f"{REVIEW}/{first}/answer", {"boxes": []})
        assert _one(workspace, first).status == "labelled"
        assert _one(workspace, first).key == before
        assert files.refile_owed(workspace) == 0
    assert files.refile_owed(workspace) == 1
    moved = _one(workspace, first).key
    assert moved.rpartition("/")[2].startswith("scene_")
    with workspace.store.open(moved) as file:
        assert samples.id_of(file.read()) == first
    assert files.refile_owed(workspace) == 0


# --- other tasks --------------------------------------------------------------------------------------------------


def test_labels_and_denials(tmp_path: Path) -> None:
    workspace, (first, second, third) = desk.desk(tmp_path / "w", 3, "classify", suggested=["미나", "joon", "sora"])
    with TestClient(app(workspace)) as client:
        mina = Person(client, desk.token(workspace))
        item = mina.next()
        assert (item["label"], item["boxes"], item["about"]) == ("미나", None, None)
        assert [one["name"] for one in mina("GET", f"{REVIEW}/labels")["labels"]] == ["joon", "sora", "미나"]
        item = mina("POST", f"{REVIEW}/{first}/answer", {"label": " hana ", "next": {}})["item"]
        item = mina("POST", f"{REVIEW}/{second}/answer", {"not": item["label"], "next": {}})["item"]
        mina("POST", f"{REVIEW}/{third}/answer", {"boxes": []}, status=400)
        assert _one(workspace, first).label == "hana"
        with workspace.catalog.read() as tx:
            denied = tx.execute(sa.select(sample.c.id).where(labels.is_denial())).scalars().all()
        assert denied == [second]
        back = mina("POST", f"{REVIEW}/{second}/undo")["item"]
        assert (back["label"], back["denied"]) == ("joon", None)


def test_numbers(tmp_path: Path) -> None:
    target = {"learn": {"target": {"low": 0, "high": 100, "step": 0.5}}}
    workspace, (first, _) = desk.desk(tmp_path / "w", 2, "regress", **target)
    with TestClient(app(workspace)) as client:
        mina = Person(client, desk.token(workspace))
        assert mina.next()["range"] == {"low": 0, "high": 100, "step": 0.5}
        for wrong in ("101", "a lot", "nan"):
            mina("POST", f"{REVIEW}/{first}/answer", {"label": wrong}, status=400)
        mina("POST", f"{REVIEW}/{first}/answer", {"not": "3"}, status=400)
        mina("POST", f"{REVIEW}/{first}/answer", {"label": "41.7"})
    assert _one(workspace, first).label == "41.5"
