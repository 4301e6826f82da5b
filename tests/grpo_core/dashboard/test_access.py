from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from grpo_core.dashboard.server import make_app
from grpo_core.home import Home
from tests.grpo_core.dashboard.conftest import WriteRun

HERE = "http://127.0.0.1:8470"


def client(home: Home, token: str | None = None, base_url: str = HERE) -> TestClient:
    return TestClient(make_app(home, token), base_url=base_url)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8470", 200),
        ("localhost:9999", 200),
        ("[::1]:8470", 200),
        ("evil.example:8470", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8470", 403),
        ("evil.example@127.0.0.1:8470", 200),  # a user name, and still this machine
        ("127.0.0.1@evil.example", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_only_names_of_this_machine_are_served(home: Home, host: str, status: int) -> None:
    for path in ("/", "/api/runs", "/page/app.js"):
        assert client(home).get(path, headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": HERE}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_a_page_of_another_origin_reads_nothing(home: Home, headers: dict[str, str], status: int) -> None:
    answer = client(home).get("/api/runs", headers=headers)
    assert answer.status_code == status
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_link_from_elsewhere_opens_the_page(home: Home) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client(home).get("/", headers=headers).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(home: Home) -> None:
    for path in ("/", "/api/runs", "/nothing", "/page/page.css"):
        headers = client(home).get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_with_a_token_nothing_is_read_without_it(home: Home, write_run: WriteRun) -> None:
    write_run("secret-run")
    stranger = client(home, "s3cret", "http://gpu-box:8470")
    for path in (
        "/",
        "/api/runs",
        "/api/stream",
        "/page/app.js",
        "/?token=",
        "/?token=s3cre",
        "/api/runs?token=s3cret",
    ):
        answer = stranger.get(path)
        assert answer.status_code == 401
        assert "secret-run" not in answer.text
    for cookie in ("grpo_token=wrong", "grpo_token", "grpo_token=\xff;;==", "=;"):
        answer = stranger.get("/api/runs", headers=[(b"cookie", cookie.encode("latin-1"))])
        assert answer.status_code == 401


def test_the_link_with_the_token_is_enough(home: Home, write_run: WriteRun) -> None:
    write_run("secret-run")
    owner = client(home, "s3cret", "http://gpu-box:8470")
    answer = owner.get("/?token=s3cret", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=lax" in answer.headers["set-cookie"].lower()
    assert owner.get("/api/runs").json()["runs"][0]["name"] == "secret-run"
    assert owner.get("/api/runs", headers={"origin": "http://evil.example"}).status_code == 403


def test_nothing_can_be_sent(home: Home) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert client(home).request(method, "/api/runs").status_code == 405
