"""Access over real HTTP: every refusal of the contract, by each way in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_twisted
from administered import IN_FILE, REGISTRY, Administered, Make, guarded, prepared
from gateways import Answer, plain

from kateway.config.schema import AuthConfig, EmbeddedStorageConfig, JwtConfig, RegistryConfig

here = pytest_twisted.ensureDeferred
JWT_SECRET = "a-secret-of-at-least-thirty-two-bytes-for-hs256"


@pytest_twisted.async_yield_fixture
async def shop(tmp_path: Path) -> AsyncIterator[Administered]:
    made = Administered(guarded(tmp_path / "data"))
    yield await prepared(made)
    await made.stop()


# --- authentication ---------------------------------------------------------------------------------------------------


@here
async def test_an_owner_publishes_and_a_bound_application_reads(shop: Administered) -> None:
    assert (await shop.publish("app1", "foo", b"hello")).status == 201
    assert (await shop.publish("app1", "app1.foo", b"again")).status == 201
    for path in ("foo/g1?limit=2", "app1.foo/g2?limit=2"):
        answer = await shop.read("app2", path)
        assert (answer.status, answer.body) == (200, b"hello\nagain\n")
    assert (await shop.read("app1", "foo/mine")).body == b"hello"


@here
async def test_a_key_that_was_just_used_is_listed_so(shop: Administered) -> None:
    def used(answer: Answer) -> dict[str, bool]:
        return {key["key"]: key["last_used"] is not None for key in answer.json()["items"]}

    path = "/applications/app1/keys"
    assert used(await shop.admin("GET", path)) == {"app1-pub": False, "app1-sub": False}
    assert (await shop.publish("app1", "foo", b"hello")).status == 201
    assert used(await shop.admin("GET", path)) == {"app1-pub": True, "app1-sub": False}


@here
async def test_basic_does_what_the_headers_do(shop: Administered) -> None:
    answer = await shop.request("POST", "/v1/topics/foo", b"x", headers=shop.basic("app1-pub"))
    assert answer.status == 201
    answer = await shop.request("GET", "/v1/topics/foo/g1", headers=shop.basic("app2-sub"))
    assert answer.body == b"x"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Pubkey": "app1-pub"},
        {"Pubkey": "app1-pub", "Secret": "wrong"},
        {"Pubkey": "nobody", "Secret": "wrong"},
        {"Pubkey": "app1-pub", "Secret": "\u00ff\u00fe"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic bm8tY29sb24="},
        {"Authorization": "Basic YXBwMS1wdWI6d3Jvbmc="},
        {"Authorization": "Bearer not.a.token"},
        {"Authorization": "Digest whatever"},
    ],
)
@here
async def test_without_good_credentials_it_is_401_and_says_how(hot: Administered, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/v1/topics/foo"),
        ("POST", "/v1/topics/there-is-none"),
        ("GET", "/v1/topics/foo/g1"),
        ("GET", "/v1/topics/foo?partition=0&offset=0"),
        ("GET", "/v1/topics/foo"),
        ("GET", "/v1/topics/foo/g1/lag"),
        ("GET", "/v1/topics/foo/g1/offsets"),
        ("PUT", "/v1/topics/foo/g1/offsets"),
        ("POST", "/v1/topics/foo/g1/acks"),
    ):
        answer = await hot.request(method, path, b"" if method != "GET" else None, headers=headers)
        assert (answer.status, answer.code) in {(401, "unauthorized"), (429, "too-many-failures")}
        if answer.status == 401:
            assert answer.header("www-authenticate") == 'Basic realm="kateway", charset="UTF-8"'
    assert (await hot.request("GET", "/live", headers=headers)).status == 200
    assert (await hot.request("GET", "/ready", headers=headers)).status == 200


@here
async def test_an_unknown_key_and_a_wrong_secret_are_told_alike(hot: Administered) -> None:
    told = []
    for key in ("app1-pub", "nobody"):
        answer = await hot.request("POST", "/v1/topics/foo", b"x", headers={"Pubkey": key, "Secret": "wrong"})
        told.append((answer.status, {**answer.json(), "instance": ""}))
    assert told[0] == told[1]


@here
async def test_a_key_of_the_wrong_kind_is_403_and_with_a_wrong_secret_401(shop: Administered) -> None:
    sub = {"Pubkey": "app1-sub", "Secret": shop.secrets["app1-sub"]}
    answer = await shop.request("POST", "/v1/topics/foo", b"x", headers=sub)
    assert (answer.status, answer.code) == (403, "denied")
    pub = {"Subkey": "app1-pub", "Secret": shop.secrets["app1-pub"]}
    assert (await shop.request("GET", "/v1/topics/foo/g1", headers=pub)).status == 403
    assert (await shop.request("GET", "/v1/topics/foo?partition=0&offset=0", headers=pub)).status == 403
    assert (await shop.request("POST", "/v1/topics/foo/g1/acks", b"[]", headers=pub)).status == 403
    assert (await shop.request("PUT", "/v1/topics/foo/g1/offsets", b"{}", headers=pub)).status == 403
    # to ask how things stand either will do
    assert (await shop.request("GET", "/v1/topics/foo/g1/lag", headers=pub)).status == 200
    wrong = {"Pubkey": "app1-sub", "Secret": "wrong"}
    assert (await shop.request("POST", "/v1/topics/foo", b"x", headers=wrong)).status == 401


@here
async def test_a_key_guessed_too_often_is_refused_without_a_look_for_a_time_that_is_told(hot: Administered) -> None:
    wrong = {"Pubkey": "app1-pub", "Secret": "wrong"}
    for _ in range(20):
        assert (await hot.request("POST", "/v1/topics/foo", b"x", headers=wrong)).status == 401
    answer = await hot.publish("app1", "foo")
    assert (answer.status, answer.code) == (429, "too-many-failures")
    assert 1 <= int(answer.header("retry-after") or 0) <= 10


@here
async def test_a_key_in_use_goes_on_while_a_neighbour_guesses_its_secret_and_others(hot: Administered) -> None:
    for n in range(30):
        assert (await hot.publish("app1", "foo")).status == 201
        for key in ("app1-pub", "gone"):
            wrong = {"Pubkey": key, "Secret": "wrong"}
            refused = (await hot.request("POST", "/v1/topics/foo", b"x", headers=wrong)).status
            assert refused == (401 if n < 20 else 429)


def token(**claims: Any) -> dict[str, str]:
    made = jwt.encode({"exp": time.time() + 60, "aud": "kateway", **claims}, JWT_SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {made}"}


@here
async def test_a_bearer_token_stands_for_its_application(tmp_path: Path, administered: Make) -> None:
    (tmp_path / "secret").write_text(JWT_SECRET)
    auth = AuthConfig(
        methods=("key-secret", "jwt"),
        jwt=JwtConfig(algorithms=("HS256",), secret_file=str(tmp_path / "secret"), audience="kateway"),
    )
    shop = await prepared(administered(auth=auth))
    for status, headers in (
        (201, token(application="app1")),
        (403, token(application="app2")),
        (403, token(application="nobody")),
        (401, token(application="app1", aud="others")),
        (401, token(application="app1", exp=time.time() - 3600)),
        (401, token()),
        (201, shop.key("app1-pub")),
    ):
        answer = await shop.request("POST", "/v1/topics/foo", b"x", headers=headers)
        assert answer.status == status, answer.body
        if status == 401:
            challenges = answer.headers.getRawHeaders("www-authenticate")
            assert [challenge.split()[0] for challenge in challenges] == ["Basic", "Bearer"]


# --- authorisation -------------------------------------------------------------------------------------------


@here
async def test_publish_to_anothers_topic_is_refused_bound_or_not(shop: Administered) -> None:
    for topic in ("app1.foo", "app1.there-is-none"):
        answer = await shop.publish("app2", topic)
        assert (answer.status, answer.code) == (403, "denied")
    # a name that only the binding knows is not the caller's own to publish to
    assert (await shop.publish("app2", "foo")).status in {403, 404}
    assert (await shop.read("app1", "foo?partition=0&offset=0&timeout=0.05")).status in {204, 416}


@here
async def test_topics_of_others_are_hidden_from_applications_that_are_not_bound(shop: Administered) -> None:
    await shop.application("app3")
    seen = []
    for name in ("foo", "there-is-none"):
        for path in (f"app1.{name}/g1", f"app1.{name}", f"app1.{name}?partition=0&offset=0", f"app1.{name}/g1/lag"):
            answer = await shop.read("app3", path)
            seen.append((answer.status, answer.code, answer.json()["detail"].replace(name, "NAME")))
    assert set(seen) == {(403, "denied", "app3 is not bound to app1.NAME v1")}
    assert (await shop.read("app3", "foo/g1")).status == 404


@here
async def test_a_binding_restricted_to_groups_allows_those_alone(shop: Administered) -> None:
    await shop.publish("app1", "foo", b"x")
    assert (await shop.read("app2", "foo/g2")).status == 200
    for path in ("foo/g3", "foo/G1", "app1.foo/g3", "foo/g3/lag", "foo/g3/offsets"):
        answer = await shop.read("app2", path)
        assert (answer.status, answer.code) == (403, "denied"), path
    sub = shop.key("app2-sub")
    assert (await shop.request("POST", "/v1/topics/foo/g3/acks", b"[]", headers=sub)).status == 403
    assert (await shop.request("PUT", "/v1/topics/foo/g3/offsets", b'{"to":"latest"}', headers=sub)).status == 403


@here
async def test_topic_that_is_not_registered_is_404(shop: Administered) -> None:
    for status, path in ((404, "/v1/topics/bar"), (404, "/v2/topics/foo"), (404, "/v1/topics/app1.bar")):
        answer = await shop.request("POST", path, b"x", headers=shop.key("app1-pub"))
        assert (answer.status, answer.code) == (status, "topic-not-found")
    answer = await shop.request("POST", "/v1/topics/foo?partition=7", b"x", headers=shop.key("app1-pub"))
    assert answer.status == 404


@here
async def test_a_name_that_two_applications_could_mean_is_409(shop: Administered) -> None:
    await shop.application("app3")
    await shop.topic("app3/foo/v1")
    await shop.binding("app2/app3/foo/v1")
    answer = await shop.read("app2", "foo/g1")
    assert (answer.status, answer.code) == (409, "ambiguous-topic")
    assert "app1.foo, app3.foo" in answer.json()["detail"]
    await shop.publish("app3", "foo", b"third")
    assert (await shop.read("app2", "app3.foo/g1")).body == b"third"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/topics/..",
        "/v1/topics/../admin",
        "/v1/topics/%2e%2e",
        "/v1/topics/app1%2ffoo",
        "/v1/topics/app1%2Ffoo/g1",
        "/v1/topics/app1.foo.v1",
        "/v1/topics/app1..foo",
        "/v1/topics/.foo",
        "/v1/topics/foo.",
        "/v1/topics/foo%00",
        "/v1/topics/foo%0a",
        "/v1/topics/f%C3%B6%C3%B6",
        "/v1/topics/%EF%BD%86oo",
        "/v1/topics/%ff",
        "/v1/topics/foo%20",
        "/v1/topics/" + "a" * 65,
        "/v1/topics/foo/g1.dead",
        "/v1/topics/foo/..%2fg1",
        "/v1/topics/foo/app2.g1",
        "/v1/topics/foo/%E2%80%AEg1",
        "/v1/topics/foo/" + "g" * 65,
        "/v1%2f..%2fv1/topics/foo",
        "/V1/topics/foo",
        "/v-1/topics/foo",
        "/v1/topics//foo",
        "/v1/topics/foo//g1",
        "//v1/topics/foo",
    ],
)
@here
async def test_a_name_that_tries_to_escape_gets_nowhere(hot: Administered, path: str) -> None:
    before = {*(await hot.service.parts.storing.stores["default"].topics())}
    for method, key in (("POST", "app1-pub"), ("GET", "app1-sub")):
        length = "Content-Length: 1\r\n" if method == "POST" else ""
        body = "x" if method == "POST" else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{hot.head(key)}{length}\r\n{body}"
        answer = await plain(hot.port, head)
        assert answer.split(b" ")[1] in {b"400", b"404", b"405"}, answer
    assert {*(await hot.service.parts.storing.stores["default"].topics())} == before


@here
async def test_an_encoded_name_is_the_name(shop: Administered) -> None:
    assert (await shop.request("POST", "/v1/topics/app1%2Efo%6F", b"x", headers=shop.key("app1-pub"))).status == 201
    assert (await shop.read("app2", "%66oo/%671")).body == b"x"


@here
async def test_the_same_names_of_two_applications_never_meet(shop: Administered) -> None:
    await shop.application("app3")
    await shop.topic("app3/foo/v1")
    await shop.publish("app1", "foo", b"of app1")
    await shop.publish("app3", "foo", b"of app3")
    for app, value in (("app1", b"of app1"), ("app3", b"of app3"), ("app2", b"of app1")):
        answer = await shop.read(app, "foo/g1?limit=5&idle=0.1")
        assert answer.body == value + b"\n", app
    # what one application's group has read is nothing to the same group of another
    committed = [
        (await shop.read(app, "foo/g2/offsets")).json()["partitions"][0]["committed"] for app in ("app1", "app2")
    ]
    assert committed == [None, None]
    await shop.read("app1", "foo/g2")
    assert (await shop.read("app2", "foo/g2")).body == b"of app1"


@here
async def test_versions_are_topics_of_their_own_and_a_stored_name_takes_one_over(shop: Administered) -> None:
    await shop.topic("app1/foo/v2", storage_name="legacy.orders")
    await shop.request("POST", "/v2/topics/foo", b"second", headers=shop.key("app1-pub"))
    assert (await shop.request("GET", "/v2/topics/foo/g1", headers=shop.key("app1-sub"))).body == b"second"
    assert (await shop.read("app1", "foo/g1?timeout=0.05")).status == 204
    assert "legacy.orders" in await shop.service.parts.storing.stores["default"].topics()


@here
async def test_a_deprecated_topic_says_so_in_every_answer(shop: Administered) -> None:
    await shop.publish("app1", "foo")
    dates = {"deprecated": "2026-01-02T00:00:00Z", "sunset": "2027-01-02T03:04:05Z"}
    await shop.topic("app1/foo/v1", state="deprecated", **dates)
    pub, sub = shop.key("app1-pub"), shop.key("app2-sub")
    for method, path, body, headers in (
        ("POST", "foo", b"x", pub),
        ("GET", "foo/g1", None, sub),
        ("GET", "foo/g1?limit=5&idle=0.05", None, sub),
        ("GET", "foo/g1?timeout=0.05", None, sub),
        ("GET", "foo?partition=0&offset=0", None, sub),
        ("GET", "foo?partition=0&offset=0&limit=2", None, sub),
        ("GET", "foo", None, sub),
        ("GET", "foo/g1/lag", None, sub),
        ("POST", "foo/g1/acks", b"[]", sub),
        ("POST", "foo?unknown=1", b"x", pub),
    ):
        answer = await shop.request(method, f"/v1/topics/{path}", body, headers=headers)
        assert answer.header("deprecation") == "@1767312000", (path, answer)
        assert answer.header("sunset") == "Sat, 02 Jan 2027 03:04:05 GMT"
    await shop.topic("app1/foo/v1", state="active")
    assert (await shop.publish("app1", "foo")).header("deprecation") is None


@here
async def test_a_retired_topic_is_gone(shop: Administered) -> None:
    await shop.topic("app1/foo/v1", state="retired")
    pub, sub = shop.key("app1-pub"), shop.key("app2-sub")
    for method, path, headers in (
        ("POST", "foo", pub),
        ("GET", "foo/g1", sub),
        ("GET", "foo", sub),
        ("GET", "foo?partition=0&offset=0", sub),
    ):
        answer = await shop.request(method, f"/v1/topics/{path}", b"" if method == "POST" else None, headers=headers)
        assert (answer.status, answer.code) == (410, "topic-retired")


# --- a registry file, and none ---------------------------------------------------------------------------------------


@here
async def test_a_registry_file_is_in_force_and_its_topics_are_made(tmp_path: Path, administered: Make) -> None:
    (tmp_path / "registry.toml").write_text(REGISTRY)
    registry = RegistryConfig(driver="file", path=str(tmp_path / "registry.toml"))
    shop = administered(registry=registry)
    await shop.start()
    shop.secrets = dict(IN_FILE)
    assert (await shop.publish("app1", "foo")).status == 201
    assert len((await shop.read("app1", "foo")).json()["partitions"]) == 4
    assert (await shop.publish("app1", "bar")).status == 404
    answer = await shop.admin("PUT", "/topics/app1/bar/v1", {})
    assert (answer.status, answer.code) == (409, "registry-read-only")
    keys = (await shop.admin("GET", "/applications/app1/keys")).json()["items"]
    assert [(key["name"], key["made"]) for key in keys] == [("app1-pub", None), ("app1-sub", None)]
    (tmp_path / "registry.toml").write_text(
        REGISTRY.replace("partitions = 4", "partitions = 5") + '[topics."app1/bar/v1"]\n'
    )
    assert (await shop.admin("POST", "/reload")).status == 200
    assert (await shop.publish("app1", "bar")).status == 201
    assert len((await shop.read("app1", "foo")).json()["partitions"]) == 5
    (tmp_path / "registry.toml").write_text(
        REGISTRY + '[topics."app9/bar/v1"]\n[bindings."app1/app9/none/v1"]\ngroups=["*"]\n'
    )
    answer = await shop.admin("POST", "/reload")
    assert (answer.status, answer.code) == (422, "unprocessable")
    problems = " ".join(answer.json()["problems"])
    assert "app9/bar/v1" in problems
    assert "app9/none/v1" in problems
    assert (await shop.publish("app1", "bar")).status == 201
    (tmp_path / "registry.toml").write_text("[applications.app1]\n")
    assert (await shop.admin("POST", "/reload")).status == 200
    assert (await shop.publish("app1", "foo")).status == 401


@here
async def test_a_cluster_that_is_not_configured_here_is_503(tmp_path: Path, administered: Make) -> None:
    text = REGISTRY + 'cluster = "elsewhere"\n'
    (tmp_path / "registry.toml").write_text(text)
    registry = RegistryConfig(driver="file", path=str(tmp_path / "registry.toml"))
    shop = administered(registry=registry)
    await shop.start()
    shop.secrets = {"app1-pub": "first-secret"}
    answer = await shop.publish("app1", "foo")
    assert (answer.status, answer.code) == (503, "registry-unavailable")
    assert "[storage.elsewhere]" in answer.json()["detail"]


@here
async def test_in_open_mode_an_admin_write_says_which_option_to_set(administered: Make) -> None:
    shop = administered(registry=RegistryConfig())
    await shop.start()
    answer = await shop.admin("PUT", "/applications/app1", {})
    assert (answer.status, answer.code) == (409, "registry-open")
    assert "[registry] driver" in answer.json()["detail"]


# --- the admin API's refusals over the wire --------------------------------------------------------------------------


@here
async def test_admin_refusals(hot: Administered) -> None:
    got = await hot.admin("GET", "/topics/app1/foo/v1")
    etag = got.header("etag")
    for status, code, answer in (
        (404, "not-found", await hot.admin("GET", "/applications/nobody")),
        (404, "not-found", await hot.admin("GET", "/nothing")),
        (405, "method-not-allowed", await hot.admin("POST", "/topics")),
        (400, "invalid-name", await hot.admin("PUT", "/applications/a%2Fb", {})),
        (400, "invalid-name", await hot.admin("PUT", "/topics/app1/..%2f/v1", {})),
        (409, "conflict", await hot.admin("POST", "/applications/app1/keys", {"kind": "pub", "key": "app1-pub"})),
        (409, "still-referred", await hot.admin("DELETE", "/topics/app1/foo/v1")),
        (412, "precondition-failed", await hot.admin("DELETE", "/topics/app1/foo/v1", headers={"If-Match": '"x"'})),
        (421, "misdirected", await hot.admin("GET", "/status", headers={"Host": "evil.example"})),
        (403, "denied", await hot.admin("POST", "/reload", headers={"Origin": "http://evil.example"})),
    ):
        assert (answer.status, answer.code) == (status, code)
    assert (await hot.admin("PUT", "/topics/app1/foo/v1", {}, headers={"If-Match": etag})).status == 200


@here
async def test_a_second_cluster_is_published_to_and_read_through_the_same_gateway(
    tmp_path: Path, administered: Make
) -> None:
    storage = {
        "default": EmbeddedStorageConfig(path=str(tmp_path / "first")),
        "second": EmbeddedStorageConfig(path=str(tmp_path / "second")),
    }
    shop = administered(storage=storage)
    await prepared(shop)
    await shop.topic("app1/bar/v1", cluster="second")
    await shop.publish("app1", "foo", b"first")
    await shop.publish("app1", "bar", b"second")
    assert (await shop.read("app1", "bar/g1")).body == b"second"
    assert (await shop.read("app1", "foo/g1")).body == b"first"
    assert "app1.bar.v1" not in await shop.service.parts.storing.stores["default"].topics()
    assert "app1.bar.v1" in await shop.service.parts.storing.stores["second"].topics()
    answer = await shop.admin("PUT", "/topics/app1/baz/v1", {"cluster": "third"})
    assert answer.status == 400
    parts = (await shop.request("GET", "/ready")).json()["parts"]
    assert {"storage.default", "storage.second", "registry"} == set(parts)
