"""Open streams end with what they were opened with: a former secret's grace, a token, a way that a reload takes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import jwt
import pytest_twisted
from administered import Administered, guarded, prepared
from gateways import Client, eventually
from twisted.internet import reactor
from wsclient import SocketClient
from wsproto.events import CloseConnection

from kateway.config.schema import AuthConfig, JwtConfig

here = pytest_twisted.ensureDeferred
SHARED_SECRET = "a-secret-of-at-least-thirty-two-bytes-for-hs256"
ENDED_WITHIN_SECONDS = 1.0
BOTH = ("key-secret", "jwt")


@pytest_twisted.async_yield_fixture
async def shop(tmp_path: Path) -> AsyncIterator[Administered]:
    """Takes keys and tokens."""
    secret = tmp_path / "secret"
    secret.write_text(SHARED_SECRET)
    token = JwtConfig(algorithms=("HS256",), secret_file=str(secret), leeway_seconds=0)
    made = Administered(guarded(tmp_path / "data", auth=AuthConfig(methods=BOTH, jwt=token)))
    yield await prepared(made)
    await made.stop()


def bearer(seconds: float) -> dict[str, str]:
    claims = {"exp": time.time() + seconds, "application": "app1"}
    return {"Authorization": f"Bearer {jwt.encode(claims, SHARED_SECRET, algorithm='HS256')}"}


async def follower(shop: Administered, headers: dict[str, str], group: str) -> Client:
    client = await Client.connect(shop.port)
    shown = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client.send(f"GET /v1/topics/foo/{group}?follow=1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{shown}\r\n")
    await client.until(b"200 OK")
    return client


async def rotate(shop: Administered, key: str, grace_seconds: float) -> dict[str, str]:
    """Headers with the key's new secret."""
    made = await shop.change("POST", f"/applications/app1/keys/{key}/rotate", {"grace_seconds": grace_seconds})
    return shop.key(key) | {"Secret": made["secret"]}


async def reload_auth(shop: Administered, **changed: object) -> None:
    settings = shop.service.settings
    settings = attrs.evolve(settings, auth=attrs.evolve(settings.auth, **changed))
    shop.service.reloading.reread = lambda: settings
    assert (await shop.admin("POST", "/reload")).status == 200


@here
async def test_stream_opened_with_a_former_secret_ends_with_its_grace(shop: Administered) -> None:
    before = await follower(shop, shop.key("app1-sub"), "g1")
    publisher = await SocketClient.open(shop, "/v1/topics/foo", headers=shop.key("app1-pub"))
    began = reactor.seconds()
    for key in ("app1-pub", "app1-sub"):
        renewed = await rotate(shop, key, 0.8)
    within = await follower(shop, shop.key("app1-sub"), "g2")
    after = await follower(shop, renewed, "g3")
    assert not before.lost
    await eventually(lambda: before.lost and within.lost, 0.8 + ENDED_WITHIN_SECONDS)
    assert reactor.seconds() - began >= 0.8
    await eventually(lambda: publisher.first(CloseConnection) is not None, ENDED_WITHIN_SECONDS)
    close = publisher.first(CloseConnection)
    assert isinstance(close, CloseConnection)
    assert (close.code, close.reason) == (1008, "unauthorized")
    assert (await shop.publish("app1", "foo")).status == 401
    await shop.request("POST", "/v1/topics/foo", b"x", headers=await rotate(shop, "app1-pub", 0))
    await after.until(b'"offset":0')
    assert not after.lost
    after.close()
    publisher.client.close()


@here
async def test_a_rotation_without_grace_ends_what_the_old_secret_opened_at_once(shop: Administered) -> None:
    before = await follower(shop, shop.key("app1-sub"), "g1")
    await rotate(shop, "app1-sub", 0)
    await eventually(lambda: before.lost, ENDED_WITHIN_SECONDS)


@here
async def test_a_second_rotation_ends_what_the_first_secret_opened(shop: Administered) -> None:
    first = await follower(shop, shop.key("app1-sub"), "g1")
    second = await follower(shop, await rotate(shop, "app1-sub", 3600), "g2")
    await rotate(shop, "app1-sub", 3600)
    await eventually(lambda: first.lost, ENDED_WITHIN_SECONDS)
    assert not second.lost
    second.close()


@here
async def test_a_tokens_end_is_its_streams_end(shop: Administered) -> None:
    brief = await follower(shop, bearer(0.7), "g1")
    longer = await follower(shop, bearer(60), "g2")
    assert not brief.lost
    await eventually(lambda: brief.lost, 0.7 + ENDED_WITHIN_SECONDS)
    assert not longer.lost
    longer.close()


@here
async def test_a_way_that_a_reload_takes_away_ends_what_came_by_it(shop: Administered) -> None:
    by_key = await follower(shop, shop.key("app1-sub"), "g1")
    by_token = await follower(shop, bearer(60), "g2")
    await reload_auth(shop, methods=("key-secret",))
    await eventually(lambda: by_token.lost, ENDED_WITHIN_SECONDS)
    assert not by_key.lost
    by_key.close()


@here
async def test_a_token_that_a_reload_makes_void_ends_its_streams(shop: Administered, tmp_path: Path) -> None:
    by_key = await follower(shop, shop.key("app1-sub"), "g1")
    by_token = await follower(shop, bearer(60), "g2")
    await reload_auth(shop, methods=("jwt", "key-secret"))
    assert not by_token.lost
    (tmp_path / "secret").write_text("another" * 8)
    assert (await shop.admin("POST", "/reload")).status == 200
    await eventually(lambda: by_token.lost, ENDED_WITHIN_SECONDS)
    assert not by_key.lost
    by_key.close()
