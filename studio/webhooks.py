"""Webhooks: whoever asked for it hears that a job has ended, signed, again and again until they have taken it.

A dispatcher takes what is due out of the outbox and posts each delivery in a thread of its own. A delivery that arrived
but was not written down is repeated: receivers tell the copies by `webhook-id`.
The headers are those of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from studio.errors import InvalidRequest
from studio.outbound import (
    Answer,
    ForbiddenAddress,
    Resolve,
    Unreachable,
    anywhere,
    is_private_literal,
    is_public,
    post,
    resolve,
)
from studio.schemas import DeliveryStatus, JobView, WebhookEvent, utcnow
from studio.settings import ENV_PREFIX, SECRET_PREFIX, Settings
from studio.store.outbox import DeliveryClaim, Outbox
from studio.store.tables import Job

logger = logging.getLogger(__name__)

POLL_S = 0.5  # how soon the end of a job is told
AT_ONCE = 8  # deliveries under way; each that is slow holds up one of them
LEASE_MARGIN_S = 10.0  # beyond the time that a delivery may take: a busy machine is late
ERROR_PAUSE_S = 5.0  # the dispatcher failed itself (the database is gone, say): breathe, then go on
GROWTH = 4.0  # of the wait from one attempt to the next: 5 s, 20 s, 80 s, …
WAIT_MAX_S = 6 * 3600.0
JITTER = 0.1  # either way: deliveries that failed together do not return together
GONE = 410  # the receiver wants no more of this


class Observer(Protocol):
    """Hears of attempts, for statistics: `pending` is one that will be tried again."""

    def webhook_attempted(self, outcome: DeliveryStatus) -> None: ...


def check_url(settings: Settings, url: str | None) -> None:
    """Refuse a webhook that could never be delivered. What a name means is seen when it is.

    Raises:
        InvalidRequest: no secret is set, or the URL is plainly a private one.
    """
    if url is None:
        return
    if settings.webhook_secret is None:
        raise InvalidRequest("webhook_url", f"this studio sends none: {ENV_PREFIX}WEBHOOK_SECRET is not set")
    if is_private_literal(url) and not settings.webhook_allow_private:
        raise InvalidRequest("webhook_url", f"must not lead to a private address ({ENV_PREFIX}WEBHOOK_ALLOW_PRIVATE)")


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`: HMAC-SHA256 over `id.timestamp.body`, in base64. `secret` is `whsec_…`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class Dispatcher:
    """Delivers until `stop`; does nothing, not even look, while no secret is set.

    Args:
        view: an ended job as every surface shows it.
        resolve: what names mean.
    """

    def __init__(
        self, outbox: Outbox, settings: Settings, view: Callable[[Job], JobView], observer: Observer,
        resolve: Resolve = resolve,
    ) -> None:  # fmt: skip
        self._outbox = outbox
        self._settings = settings
        self._view = view
        self._observer = observer
        self._resolve = resolve
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._under_way: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to deliver."""
        if self._settings.webhook_secret is not None:
            self._thread.start()

    def stop(self) -> None:
        """Begin no delivery, and wait for those that are under way; one that takes too long is repeated later."""
        self._stopping.set()
        self._wake.set()
        deadline = time.monotonic() + self._settings.webhook_timeout_seconds + 1.0
        if self._thread.is_alive():
            self._thread.join(deadline - time.monotonic())  # it may just be sending somebody
        for thread in self._under_way:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception:
                logger.exception("The dispatcher failed; it goes on")
                self._stopping.wait(ERROR_PAUSE_S)
            self._wake.wait(POLL_S)
            self._wake.clear()

    def _turn(self) -> None:
        self._under_way = [thread for thread in self._under_way if thread.is_alive()]
        free = AT_ONCE - len(self._under_way)
        if free == 0:
            return
        for claim in self._outbox.claim(free, self._settings.webhook_timeout_seconds + LEASE_MARGIN_S):
            thread = threading.Thread(target=self._deliver, args=[claim], name=claim.delivery_id, daemon=True)
            self._under_way.append(thread)
            thread.start()

    # In a thread of its own

    def _deliver(self, claim: DeliveryClaim) -> None:
        try:
            self._attempt(claim)
        except Exception:  # the row stays due: it comes again when its lease has run out
            logger.exception("A delivery broke off: %s", claim.delivery_id, extra={"job_id": claim.job.job_id})
        finally:
            self._wake.set()

    def _attempt(self, claim: DeliveryClaim) -> None:
        if claim.attempt > self._settings.webhook_max_attempts:  # those before broke off
            self._fail(claim, "The studio broke off its last attempt.", None, None)
            return
        try:
            answer = self._post(claim)
        except ForbiddenAddress as error:
            self._fail(claim, str(error), None, None)
        except Unreachable as error:
            self._fail(claim, str(error), None, self._wait_s(claim))
        else:
            self._judge(claim, answer)

    def _post(self, claim: DeliveryClaim) -> Answer:
        secret, url = self._settings.webhook_secret, claim.job.webhook_url
        assert secret is not None and url is not None
        body = self._body(claim)
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "studio",
            "webhook-id": claim.delivery_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret.get_secret_value(), claim.delivery_id, timestamp, body),
        }
        return post(
            url, body, headers, timeout_s=self._settings.webhook_timeout_seconds,
            allowed=anywhere if self._settings.webhook_allow_private else is_public, resolve=self._resolve,
        )  # fmt: skip

    def _body(self, claim: DeliveryClaim) -> bytes:
        event = WebhookEvent(
            event=event_of(claim.job), delivery_id=claim.delivery_id, sent_at=utcnow(), job=self._view(claim.job)
        )
        return event.model_dump_json().encode()

    def _judge(self, claim: DeliveryClaim, answer: Answer) -> None:
        if 200 <= answer.status < 300:
            if self._outbox.delivered(claim, answer.status):
                self._tell(claim, DeliveryStatus.DELIVERED, logging.INFO, "Webhook delivered", answer.status)
            return
        wait_s = None if answer.status == GONE else self._wait_s(claim)
        if wait_s is not None and answer.retry_after_s is not None:
            wait_s = min(max(wait_s, answer.retry_after_s), WAIT_MAX_S)
        redirect = ", and redirects are not followed" if 300 <= answer.status < 400 else ""
        self._fail(claim, f"The receiver answered {answer.status}{redirect}.", answer.status, wait_s)

    def _wait_s(self, claim: DeliveryClaim) -> float | None:
        if claim.attempt >= self._settings.webhook_max_attempts:
            return None
        wait_s = min(self._settings.webhook_retry_delay_seconds * GROWTH ** (claim.attempt - 1), WAIT_MAX_S)
        return wait_s * random.uniform(1.0 - JITTER, 1.0 + JITTER)

    def _fail(self, claim: DeliveryClaim, error: str, status: int | None, wait_s: float | None) -> None:
        if not self._outbox.failed(claim, error, status, wait_s):
            return
        if wait_s is None:
            self._tell(claim, DeliveryStatus.ABANDONED, logging.ERROR, "Webhook abandoned", status, error)
        else:
            self._tell(claim, DeliveryStatus.PENDING, logging.WARNING, "Webhook failed, will retry", status, error)

    def _tell(
        self, claim: DeliveryClaim, outcome: DeliveryStatus, level: int, message: str, status: int | None,
        error: str | None = None,
    ) -> None:  # fmt: skip
        self._observer.webhook_attempted(outcome)
        fields = {"delivery_id": claim.delivery_id, "attempt": claim.attempt, "status": status, "error": error}
        extra = {"job_id": claim.job.job_id, **{name: value for name, value in fields.items() if value is not None}}
        logger.log(level, "%s: %s", message, claim.job.job_id, extra=extra)


def event_of(job: Job) -> str:
    """`job.completed`, `job.failed`, `job.cancelled`."""
    return f"job.{job.status}"
