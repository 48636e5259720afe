"""How often a client may ask, and who the client is."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from studio import Studio
from studio import limits as limits_module
from studio.errors import ConfigurationError, InvalidRequest, RateLimited
from studio.limits import RateLimiter, client_of
from studio.settings import Settings
from tests.conftest import RedisServer

CLIENT = "203.0.113.9"
Limiter = Callable[..., RateLimiter]


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def storage(request: pytest.FixtureRequest) -> str:
    """Both places where grants are counted, one after the other."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
def limiter(storage: str) -> Limiter:
    return partial(made, rate_limit_storage=storage)


def made(per_minute: int = 10, window_s: int = 60, **fields: object) -> RateLimiter:
    return RateLimiter(Settings.model_validate({"rate_limit_per_minute": per_minute, **fields}), window_s)


def granted(limiter: RateLimiter, client: str = CLIENT, cost: int = 1) -> bool:
    try:
        limiter.charge(client, cost)
    except RateLimited:
        return False
    return True


def test_the_eleventh_request_of_ten_is_refused(limiter: Limiter) -> None:
    limits = limiter()
    assert [granted(limits) for _ in range(11)] == [True] * 10 + [False]


def test_the_refusal_says_the_sentence_and_how_long(limiter: Limiter) -> None:
    limits = limiter(per_minute=1)
    limits.charge(CLIENT, 1)
    with pytest.raises(RateLimited, match=r"^Rate limit exceeded$") as refusal:
        limits.charge(CLIENT, 1)
    assert 59 <= refusal.value.retry_after_s <= 60


def test_clients_do_not_share_a_limit(limiter: Limiter) -> None:
    limits = limiter(per_minute=1)
    assert granted(limits)
    assert granted(limits, "203.0.113.10")
    assert not granted(limits)


def test_a_batch_costs_as_much_as_its_requests(limiter: Limiter) -> None:
    limits = limiter()
    assert granted(limits, cost=9)
    assert not granted(limits, cost=2)
    assert granted(limits, cost=1)


def test_a_refused_request_costs_nothing(limiter: Limiter) -> None:
    limits = limiter()
    limits.charge(CLIENT, 6)
    assert [granted(limits, cost=5) for _ in range(20)] == [False] * 20
    assert granted(limits, cost=4)


def test_more_than_the_limit_at_once_is_an_invalid_request(limiter: Limiter) -> None:
    with pytest.raises(InvalidRequest, match="at most 5") as refusal:
        limiter(per_minute=5).charge(CLIENT, 6)
    assert refusal.value.field == "requests"


def test_the_same_request_is_granted_after_the_wait_and_not_before(limiter: Limiter) -> None:
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


def test_threads_together_get_no_more_than_one_alone(limiter: Limiter) -> None:
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
def test_the_local_machine_is_not_limited(limiter: Limiter, client: str) -> None:
    assert all(granted(limiter(per_minute=1), client) for _ in range(5))
    by_name = limiter(per_minute=1, rate_limit_whitelist=["localhost"])
    assert all(granted(by_name, client) for _ in range(5))


def test_the_whitelist_takes_networks_and_may_be_empty(limiter: Limiter) -> None:
    company = limiter(per_minute=1, rate_limit_whitelist=["203.0.113.0/24"])
    assert all(granted(company) for _ in range(5))
    nobody = limiter(per_minute=1, rate_limit_whitelist=[])
    assert [granted(nobody, "127.0.0.1") for _ in range(2)] == [True, False]


def test_a_disabled_limit_limits_nobody(limiter: Limiter) -> None:
    off = limiter(per_minute=1, rate_limit_enabled=False)
    assert all(granted(off, cost=5) for _ in range(5))


def test_a_whole_ipv6_subnet_is_one_client(limiter: Limiter) -> None:
    limits = limiter(per_minute=1)
    assert granted(limits, "2001:db8:1:2::1")
    assert not granted(limits, "2001:db8:1:2:ffff::9")
    assert granted(limits, "2001:db8:1:3::1")


def test_a_mapped_ipv4_address_is_the_ipv4_address(limiter: Limiter) -> None:
    limits = limiter(per_minute=1)
    assert granted(limits, CLIENT)
    assert not granted(limits, f"::ffff:{CLIENT}")
    assert granted(limits, "::ffff:203.0.113.10")


# Several limits at once


def test_a_burst_is_limited_too(limiter: Limiter) -> None:
    limits = limiter(per_minute=100, rate_limit_burst="3/second")
    assert [granted(limits) for _ in range(4)] == [True, True, True, False]
    with pytest.raises(RateLimited) as refusal:
        limits.charge(CLIENT, 1)
    assert refusal.value.retry_after_s == 1
    time.sleep(1.05)
    assert granted(limits, cost=3)


def test_one_limit_that_refuses_leaves_the_others_uncharged(limiter: Limiter) -> None:
    limits = limiter(per_minute=5, rate_limit_burst="2/second")
    assert granted(limits, cost=2)
    assert not any(granted(limits) for _ in range(20))
    time.sleep(1.05)
    assert granted(limits, cost=2)
    time.sleep(1.05)
    assert [granted(limits) for _ in range(2)] == [True, False]


def test_the_longest_wait_counts(limiter: Limiter) -> None:
    limits = limiter(per_minute=2, rate_limit_burst="2/hour; 2/second")
    limits.charge(CLIENT, 2)
    with pytest.raises(RateLimited) as refusal:
        limits.charge(CLIENT, 1)
    assert 3590 <= refusal.value.retry_after_s <= 3600


def test_more_than_a_burst_at_once_is_an_invalid_request(limiter: Limiter) -> None:
    with pytest.raises(InvalidRequest, match="at most 3 a second are allowed, not 4 at once"):
        limiter(rate_limit_burst="3").charge(CLIENT, 4)


@pytest.mark.parametrize("burst", ["0", "-1", "3/fortnight", "3 per second or so", "/second", "3/second;"])
def test_a_burst_that_says_nothing_is_refused(burst: str) -> None:
    with pytest.raises(ValidationError, match="rate_limit_burst"):
        Settings(rate_limit_burst=burst)


# Where grants are counted


def test_clients_that_stopped_asking_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "SWEEP_S", 0.0)
    limits = made(window_s=1, rate_limit_burst="5/second")
    for number in range(1000):
        limits.charge(f"198.51.{number // 250}.{number % 250}", 1)
    time.sleep(1.1)
    for _ in range(50):  # the first one lets limits' own thread empty the lists
        granted(limits)
        if len(limits) <= 2:
            return
        time.sleep(0.1)
    pytest.fail(f"{len(limits)} windows are still there")


ASKING = """
import sys
from studio.errors import RateLimited
from studio.limits import RateLimiter
from studio.settings import Settings
limits = RateLimiter(Settings(rate_limit_storage=sys.argv[1], rate_limit_burst="20/hour"))
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for _ in range(40):
    try:
        limits.charge("203.0.113.9", 1)
        granted += 1
    except RateLimited:
        pass
print(granted, flush=True)
"""


@pytest.mark.redis
def test_two_processes_share_one_budget(redis_url: str) -> None:
    command = [sys.executable, "-c", ASKING, redis_url]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = [process.communicate("go\n")[0] for process in both]
    assert sum(int(answer) for answer in answers) == 10
    with pytest.raises(RateLimited) as refusal:
        made(rate_limit_storage=redis_url).charge(CLIENT, 1)
    assert 1 <= refusal.value.retry_after_s <= 60


@pytest.mark.redis
def test_without_redis_each_process_counts_alone_and_says_so_once(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits_module, "REDIS_AWAY_S", 0.0)  # ask it each time
    limits = made(per_minute=3, rate_limit_storage=redis_url)
    limits.check()
    assert granted(limits, cost=3)
    redis_server.stop()
    try:
        assert [granted(limits) for _ in range(4)] == [True, True, True, False]
    finally:
        redis_server.start()
    (said,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert said.getMessage().startswith("Redis does not answer; until it does, this process counts alone: ")
    assert granted(limits, cost=3)  # it is back, and empty
    assert not granted(limits)


NOWHERE = "redis://:swordfish@127.0.0.1:1/0"


def test_a_start_without_redis_says_where_it_should_be_and_no_password(tmp_path: Path) -> None:
    studio = Studio(Settings(data_dir=tmp_path, rate_limit_storage=NOWHERE))
    with pytest.raises(ConfigurationError, match=r"RATE_LIMIT_STORAGE: Redis at 127\.0\.0\.1 does not") as error:
        studio.start(work=False)
    assert "swordfish" not in str(error.value)


def test_who_limits_nobody_needs_no_redis(tmp_path: Path) -> None:
    with Studio(Settings(data_dir=tmp_path, rate_limit_storage=NOWHERE, rate_limit_enabled=False)) as studio:
        assert studio.ready()


# Who the client is


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
