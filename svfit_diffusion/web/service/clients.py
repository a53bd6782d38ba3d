"""Who sends a request: host names, addresses, and what each address tried or asked for."""

from __future__ import annotations

import ipaddress
import math
import re
import time
from collections import OrderedDict
from collections.abc import Callable

FREE_ATTEMPTS = 5  # wrong passwords before the first wait
MAX_WAIT = 900.0  # seconds
MAX_CLIENTS = 10_000  # whose attempts are remembered
MINUTE = 60.0  # seconds


class RequestRefused(Exception):
    """A request that is answered with an HTTP status and one sentence. wait: seconds to retry."""

    def __init__(self, status: int, sentence: str, wait: float = 0) -> None:
        super().__init__(sentence)
        self.status, self.wait = status, wait


class LoginAttempts:
    """Counts logins of each client: after a few, each waits twice as long as the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, next allowed

    def count(self, client: str) -> None:
        """Count an attempt before its password is checked; RequestRefused if it is too early."""
        count, allowed = self._attempts.pop(client, (0, 0.0))
        now = self._clock()
        if allowed > now:
            self._attempts[client] = count, allowed
            wait = allowed - now
            raise RequestRefused(429, "Too many wrong passwords; wait before the next try.", wait)
        count += 1
        wait = min(2.0 ** (count - FREE_ATTEMPTS), MAX_WAIT) if count >= FREE_ATTEMPTS else 0.0
        self._attempts[client] = count, now + wait
        while len(self._attempts) > MAX_CLIENTS:
            self._attempts.popitem(last=False)

    def reset(self, client: str) -> None:
        """Forget a client's attempts: its password was right."""
        self._attempts.pop(client, None)


class RequestRate:
    """Counts the requests of each client within a minute, for a page that everybody may use."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self._clock = most, clock
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def count(self, client: str) -> None:
        """Count a request; RequestRefused where there were `most` in the last minute."""
        now = self._clock()
        times = [then for then in self._times.pop(client, []) if then > now - MINUTE]
        self._times[client] = times
        if len(times) >= self.most:
            wait = times[0] + MINUTE - now
            raise RequestRefused(
                429, f"That was a lot at once; try again in {math.ceil(wait)} seconds.", wait
            )
        times.append(now)
        while len(self._times) > MAX_CLIENTS:
            self._times.popitem(last=False)


def hostname(host: str) -> str:
    """The name in a Host header, without its port; "" where it is malformed."""
    found = re.fullmatch(r"(\[[\da-fA-F:.]+\]|[^\s:\[\]/@]+)(:\d{1,5})?", host)
    return found[1].strip("[]").lower() if found else ""


def is_loopback(name: str) -> bool:
    """Whether a name or an address is this machine's own."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def client_address(client: tuple[str, int] | None) -> str:
    """Whose attempts are counted together: an IPv4 address, or an IPv6 /64 network."""
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return "unknown"
    if address.version == 6 and not address.ipv4_mapped:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)
