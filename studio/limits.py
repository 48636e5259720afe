"""How often a client may ask, and who the client is. Counts requests, not calls: a batch of three costs three.

The window moves: at any moment, no more than the limit has been accepted within the minute before it. A refused
request costs nothing.
"""

from __future__ import annotations

import bisect
import ipaddress
import threading
from collections.abc import Sequence

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from studio.errors import InvalidRequest, RateLimited
from studio.settings import Settings

WINDOW_S = 60
IPV6_CLIENT_BITS = 64  # one customer holds a whole /64 and could change address with every request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RateLimiter:
    """Counts what each client was granted. Thread-safe.

    Args:
        settings: the limit, and who is exempt from it.
        window_s: length of the moving window in seconds.
    """

    def __init__(self, settings: Settings, window_s: int = WINDOW_S) -> None:
        self._enabled = settings.rate_limit_enabled
        self._exempt = Clients(settings.rate_limit_whitelist)
        self._limits: list[RateLimitItem] = [RateLimitItemPerSecond(settings.rate_limit_per_minute, window_s)]
        self._storage = MemoryStorage()
        self._granted = MovingWindowRateLimiter(self._storage)
        self._lock = threading.Lock()  # MemoryStorage under threads let 20 of 10 through

    def charge(self, client: str, cost: int) -> None:
        """Grant `cost` requests to `client`, or none of them.

        Raises:
            InvalidRequest: more at once than the limit ever allows.
            RateLimited: not now; `retry_after_s` is when the same request is granted, if nobody else is meanwhile.
        """
        assert cost >= 1  # less would give budget back
        if not self._enabled or client in self._exempt:
            return
        for limit in self._limits:
            if cost > limit.amount:
                raise InvalidRequest("requests", f"at most {limit.amount} a minute are allowed, not {cost} at once")
        key = _key(client)
        with self._lock:
            wait_s = max(self._wait_s(limit, key, cost) for limit in self._limits)
            if wait_s:
                raise RateLimited(wait_s)
            for limit in self._limits:
                self._granted.hit(limit, key, cost=cost)

    def _wait_s(self, limit: RateLimitItem, key: str, cost: int) -> int:
        """Whole seconds until so many grants have left the window that `cost` more fit; 0 when they fit now."""
        window_s = limit.get_expiry()

        def fits_after(wait_s: int) -> bool:
            _, granted = self._storage.get_moving_window(limit.key_for(key), limit.amount, window_s - wait_s)
            return bool(granted + cost <= limit.amount)

        return bisect.bisect_left(range(window_s), True, key=fits_after)


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
