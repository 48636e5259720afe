"""How often a client may ask, and who the client is."""

from __future__ import annotations

import threading
import time

import pytest

from studio.errors import InvalidRequest, RateLimited
from studio.limits import RateLimiter, client_of
from studio.settings import Settings

CLIENT = "203.0.113.9"


def limiter(per_minute: int = 10, window_s: int = 60, **fields: object) -> RateLimiter:
    return RateLimiter(Settings.model_validate({"rate_limit_per_minute": per_minute, **fields}), window_s)


def granted(limiter: RateLimiter, client: str = CLIENT, cost: int = 1) -> bool:
    try:
        limiter.charge(client, cost)
    except RateLimited:
        return False
    return True


def test_the_eleventh_request_of_ten_is_refused() -> None:
    limits = limiter()
    assert [granted(limits) for _ in range(11)] == [True] * 10 + [False]


def test_the_refusal_says_the_sentence_and_how_long() -> None:
    limits = limiter(per_minute=1)
    limits.charge(CLIENT, 1)
    with pytest.raises(RateLimited, match=r"^Rate limit exceeded$") as refusal:
        limits.charge(CLIENT, 1)
    assert 59 <= refusal.value.retry_after_s <= 60


def test_clients_do_not_share_a_limit() -> None:
    limits = limiter(per_minute=1)
    assert granted(limits)
    assert granted(limits, "203.0.113.10")
    assert not granted(limits)


def test_a_batch_costs_as_much_as_its_requests() -> None:
    limits = limiter()
    assert granted(limits, cost=9)
    assert not granted(limits, cost=2)
    assert granted(limits, cost=1)


def test_a_refused_request_costs_nothing() -> None:
    limits = limiter()
    limits.charge(CLIENT, 6)
    assert [granted(limits, cost=5) for _ in range(20)] == [False] * 20
    assert granted(limits, cost=4)


def test_more_than_the_limit_at_once_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest, match="at most 5") as refusal:
        limiter(per_minute=5).charge(CLIENT, 6)
    assert refusal.value.field == "requests"


def test_the_same_request_is_granted_after_the_wait_and_not_before() -> None:
    limits = limiter(per_minute=5, window_s=3)
    limits.charge(CLIENT, 2)
    time.sleep(1.1)
    limits.charge(CLIENT, 3)
    with pytest.raises(RateLimited) as one:  # two grants leave the window together, 1.9 s from now
        limits.charge(CLIENT, 1)
    with pytest.raises(RateLimited) as three:  # needs one of the later grants to leave: 3 s from now
        limits.charge(CLIENT, 3)
    assert (one.value.retry_after_s, three.value.retry_after_s) == (2, 3)
    time.sleep(1.5)
    assert not granted(limits, cost=3)
    time.sleep(1.5)
    assert granted(limits, cost=3)


def test_threads_together_get_no_more_than_one_alone() -> None:
    limits = limiter()
    start = threading.Barrier(40)
    grants: list[bool] = []

    def ask() -> None:
        start.wait()
        grants.append(granted(limits))

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(grants) == 10


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_the_local_machine_is_not_limited(client: str) -> None:
    assert all(granted(limiter(per_minute=1), client) for _ in range(5))
    by_name = limiter(per_minute=1, rate_limit_whitelist=["localhost"])
    assert all(granted(by_name, client) for _ in range(5))


def test_the_whitelist_takes_networks_and_may_be_empty() -> None:
    company = limiter(per_minute=1, rate_limit_whitelist=["203.0.113.0/24"])
    assert all(granted(company) for _ in range(5))
    nobody = limiter(per_minute=1, rate_limit_whitelist=[])
    assert [granted(nobody, "127.0.0.1") for _ in range(2)] == [True, False]


def test_a_disabled_limit_limits_nobody() -> None:
    off = limiter(per_minute=1, rate_limit_enabled=False)
    assert all(granted(off, cost=5) for _ in range(5))


def test_a_whole_ipv6_subnet_is_one_client() -> None:
    limits = limiter(per_minute=1)
    assert granted(limits, "2001:db8:1:2::1")
    assert not granted(limits, "2001:db8:1:2:ffff::9")
    assert granted(limits, "2001:db8:1:3::1")


def test_a_mapped_ipv4_address_is_the_ipv4_address() -> None:
    limits = limiter(per_minute=1)
    assert granted(limits, CLIENT)
    assert not granted(limits, f"::ffff:{CLIENT}")
    assert granted(limits, "::ffff:203.0.113.10")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        (CLIENT, None, CLIENT),
        (CLIENT, "127.0.0.1", CLIENT),  # nobody trusts this peer's word
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", CLIENT, CLIENT),
        ("10.0.0.1", f"127.0.0.1, {CLIENT}", CLIENT),  # the left one is the client's own word
        ("10.0.0.1", f"127.0.0.1, {CLIENT}, 10.0.0.2", CLIENT),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("::ffff:10.0.0.1", f"{CLIENT}:4711", CLIENT),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", f"{CLIENT}, unknown", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_trusted_proxy(
    peer: str, forwarded_for: str | None, client: str
) -> None:
    assert client_of(peer, forwarded_for, ["10.0.0.0/8"]) == client


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    assert client_of("127.0.0.1", CLIENT, []) == "127.0.0.1"
