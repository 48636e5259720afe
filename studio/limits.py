"""How often a client may ask, and who the client is. Counts requests, not calls: a batch of three costs three.

The windows move: at any moment, no more than each limit has been accepted within the time before it. All limits are
looked at before any is charged, so a refused request costs nothing. Several processes share their counts through Redis;
while it is away, each counts for itself.
"""

from __future__ import annotations

import bisect
import ipaddress
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import redis
from limits import RateLimitItem, RateLimitItemPerSecond, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from studio.errors import ConfigurationError, InvalidRequest, RateLimited
from studio.settings import ENV_PREFIX, Settings

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection

logger = logging.getLogger(__name__)

WINDOW_S = 60
IPV6_CLIENT_BITS = 64  # one customer holds a whole /64 and could change address with every request
SWEEP_S = 60.0  # how often clients that have not asked for a window are forgotten
REDIS_TIMEOUT_S = 0.5  # a request waits no longer for Redis
REDIS_AWAY_S = 5.0  # after a failure; then Redis is asked again
COMPLAIN_S = 60.0  # between two log lines that say so
PERIODS = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class LimiterState:
    """What the limiter does, for a person who runs the studio."""

    enabled: bool
    limits: list[str]  # `10 a minute`
    exempt: list[str]
    where: str  # the counts lie: `this process`, or `Redis at db.example.org`
    clients: int  # under a limit that this process counts
    refusals: int  # of this process, since its start


class RateLimiter:
    """Counts what each client was granted. Thread-safe.

    Args:
        settings: the limits, where they are counted, and who is exempt from them.
        window_s: length of the moving window of `RATE_LIMIT_PER_MINUTE` in seconds.
        refused: called at each refusal.
    """

    def __init__(
        self, settings: Settings, window_s: int = WINDOW_S, refused: Callable[[], None] = lambda: None
    ) -> None:
        self._enabled = settings.rate_limit_enabled
        self._whitelist = settings.rate_limit_whitelist
        self._exempt = Clients(settings.rate_limit_whitelist)
        minute = RateLimitItemPerSecond(settings.rate_limit_per_minute, window_s)
        self._limits = list({_window(limit): limit for limit in (minute, *_bursts(settings))}.values())
        self._refused = refused
        self._own = _InMemory(self._limits)
        self._shared = _InRedis(self._limits, settings.rate_limit_storage) if _in_redis(settings) else None
        self._ask_shared_at = self._complain_at = 0.0  # monotonic seconds
        self._refusals = 0

    def check(self) -> None:
        """Raises ConfigurationError when the counts are to lie in Redis, and it does not answer."""
        if self._shared is not None:
            self._shared.check()

    def charge(self, client: str, cost: int) -> None:
        """Grant `cost` requests to `client`, or none of them.

        Raises:
            InvalidRequest: more at once than a limit ever allows.
            RateLimited: not now; `retry_after_s` is when the same request is granted, if nobody else is meanwhile.
        """
        assert cost >= 1  # less would give budget back
        if not self._enabled or client in self._exempt:
            return
        for limit in self._limits:
            if cost > limit.amount:
                raise InvalidRequest("requests", f"at most {_words(limit)} are allowed, not {cost} at once")
        wait_s = self._take(_key(client), cost)
        if wait_s:
            self._refusals += 1
            self._refused()
            logger.info("Rate limit exceeded: %s", client, extra={"requests": cost, "retry_after_seconds": wait_s})
            raise RateLimited(wait_s)

    def __len__(self) -> int:
        """Windows that this process remembers."""
        return len(self._own)

    def state(self) -> LimiterState:
        """What it does at this moment."""
        return LimiterState(
            enabled=self._enabled,
            limits=[_words(limit) for limit in self._limits],
            exempt=self._whitelist,
            where=self._where(),
            clients=self._own.clients(),
            refusals=self._refusals,
        )

    def _where(self) -> str:
        if self._shared is None:
            return "this process"
        away = time.monotonic() < self._ask_shared_at
        return f"{self._shared} does not answer: each process counts alone" if away else str(self._shared)

    def _take(self, key: str, cost: int) -> int:
        now = time.monotonic()
        if self._shared is not None and now >= self._ask_shared_at:
            try:
                return self._shared.take(key, cost)
            except redis.RedisError as error:
                self._ask_shared_at = now + REDIS_AWAY_S
                if now >= self._complain_at:
                    self._complain_at = now + COMPLAIN_S
                    logger.error("Redis does not answer; until it does, this process counts alone: %s", error)
        return self._own.take(key, cost)


class _InMemory:
    """The windows of one process."""

    def __init__(self, limits: Sequence[RateLimitItem]) -> None:
        self._limits = limits
        self._storage = MemoryStorage()
        self._granted = MovingWindowRateLimiter(self._storage)
        self._lock = threading.Lock()  # MemoryStorage under threads let 20 of 10 through
        self._sweep_at = 0.0  # monotonic seconds

    def take(self, key: str, cost: int) -> int:
        """Charge all limits and return 0, or none of them and return in how many seconds to ask again."""
        with self._lock:
            self._sweep()
            wait_s = max(self._wait_s(limit, key, cost) for limit in self._limits)
            if wait_s == 0:
                for limit in self._limits:
                    self._granted.hit(limit, key, cost=cost)
            return wait_s

    def __len__(self) -> int:
        return len(self._storage.events)

    def clients(self) -> int:
        """How many have been granted something lately."""
        longest = max(self._limits, key=lambda limit: limit.get_expiry())
        start, end = longest.key_for("*").split("*")
        with self._lock:
            self._sweep()
            return sum(name.startswith(start) and name.endswith(end) for name in self._storage.events)

    def _wait_s(self, limit: RateLimitItem, key: str, cost: int) -> int:
        """Whole seconds until so many grants have left the window that `cost` more fit; 0 when they fit now."""
        window_s = limit.get_expiry()

        def fits_after(wait_s: int) -> bool:
            _, granted = self._storage.get_moving_window(limit.key_for(key), limit.amount, window_s - wait_s)
            return bool(granted + cost <= limit.amount)

        return bisect.bisect_left(range(window_s), True, key=fits_after)

    def _sweep(self) -> None:
        """MemoryStorage empties a client's list when all its grants are old, and keeps the empty list for ever."""
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_S
        for name in [name for name, grants in list(self._storage.events.items()) if not grants]:
            self._storage.clear(name)


class _InRedis:
    """The windows of all processes that name the same Redis.

    `limits` charges one limit at a time, and another process can come between two of them; a script cannot be
    interrupted. It goes by the server's clock.
    """

    def __init__(self, limits: Sequence[RateLimitItem], url: str) -> None:
        self._limits = limits
        self._place = urlsplit(url).hostname or urlsplit(url).path  # without the password
        self._client = redis.Redis.from_url(
            url.removeprefix("redis+"), retry=Retry(NoBackoff(), 0),
            socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S,
        )  # fmt: skip
        self._script = self._client.register_script(TAKE)

    def __str__(self) -> str:
        return f"Redis at {self._place}"

    def check(self) -> None:
        """Raises ConfigurationError."""
        try:
            self._client.ping()
        except redis.RedisError as error:
            setting = f"{ENV_PREFIX}RATE_LIMIT_STORAGE"
            raise ConfigurationError(f"{setting}: Redis at {self._place} does not answer ({error}).") from error

    def take(self, key: str, cost: int) -> int:
        """Charge all limits and return 0, or none of them and return in how many seconds to ask again."""
        windows = [_window(limit) for limit in self._limits]
        names = [f"studio:{{{key}}}:{amount}/{seconds}" for amount, seconds in windows]
        arguments = [cost, *(number for window in windows for number in window)]
        return int(self._script(keys=names, args=arguments))


# KEYS: when a client's grants were made, under each limit, the last first. ARGV: the cost; limits' amounts and seconds.
TAKE = """
local time = redis.call('TIME')
local now, cost, wait = time[1] + time[2] / 1e6, tonumber(ARGV[1]), 0
for i, key in ipairs(KEYS) do
  local leaves = redis.call('LINDEX', key, ARGV[2 * i] - cost)  -- the last grant that must have left the window
  if leaves then wait = math.max(wait, leaves + ARGV[2 * i + 1] - now) end
end
if wait > 0 then return math.ceil(wait) end
for i, key in ipairs(KEYS) do
  for _ = 1, cost do redis.call('LPUSH', key, string.format('%.6f', now)) end
  redis.call('LTRIM', key, 0, ARGV[2 * i] - 1)
  redis.call('EXPIRE', key, ARGV[2 * i + 1] + 1)
end
return 0
"""


def _bursts(settings: Settings) -> list[RateLimitItem]:
    """`3/second`, `3/second; 100/hour`; a number alone is one per second."""
    text = settings.rate_limit_burst
    if not text:
        return []
    limits: list[RateLimitItem] = parse_many(f"{text}/second" if text.isdecimal() else text)
    return limits


def _window(limit: RateLimitItem) -> tuple[int, int]:
    """How many in how many seconds."""
    return limit.amount, limit.get_expiry()


def _in_redis(settings: Settings) -> bool:
    return settings.rate_limit_enabled and not settings.rate_limit_storage.startswith("memory:")


def _words(limit: RateLimitItem) -> str:
    seconds = limit.get_expiry()
    return f"{limit.amount} a {PERIODS[seconds]}" if seconds in PERIODS else f"{limit.amount} in {seconds} s"


class Clients:
    """Addresses, networks and names out of a setting; `localhost` is every loopback address.

    `client in clients` compares addresses, however they are written.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in entries:
            if entry == "localhost":
                self._networks += [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")]
                continue
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                self._names.add(entry)

    def __contains__(self, client: str) -> bool:
        address = _address(client)
        if address is None:
            return client in self._names
        return any(address in network for network in self._networks)


def client_of_request(request: HTTPConnection, settings: Settings) -> str:
    """Who sends this request. Takes a `gr.Request` as well."""
    peer = request.client.host if request.client else "unknown"
    return client_of(peer, ",".join(request.headers.getlist("x-forwarded-for")), settings.trusted_proxies)


def client_of(peer: str, forwarded_for: str | None, trusted_proxies: Sequence[str]) -> str:
    """Who sends a request: the socket's peer or, behind trusted proxies, the rightmost address that is not one of them.

    What stands further left in X-Forwarded-For is the client's own word.
    """
    proxies = Clients(trusted_proxies)
    client = peer
    for hop in reversed((forwarded_for or "").split(",")):
        address = _address(hop)
        if client not in proxies or address is None:
            break
        client = str(address)
    return client


def _key(client: str) -> str:
    address = _address(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, IPV6_CLIENT_BITS), strict=False))
    return client if address is None else str(address)


def _address(text: str) -> Address | None:
    """The address in `192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]:4711`, `fe80::1%eth0` or `::ffff:192.0.2.1`."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
