"""The fault matrix: every fault that delivery is tested against, and what is promised for it.

The numbers are stable names; tests, documentation and changelog use them.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

#: Whether this is `nox -s faults`: full numbers, every server, and the matrix in the end.
FULL: Final = bool(os.environ.get("BUCKETEER_FAULTS"))


class Row(NamedTuple):
    fault: str
    promise: str


MATRIX: Final[dict[str, Row]] = {
    "F1": Row("the gateway is down for 3 s and comes back", "nothing lost; delivered at most 5 s after it is back"),
    "F2": Row(
        "the gateway is down for 10 minutes",
        "nothing lost; one probe at a time, at most 60 on average; the queue is bounded",
    ),
    "F3": Row(
        "the gateway is down for longer than events live", "exactly the events past their lifetime are `expired`"
    ),
    "F4": Row("the gateway answers after 15 s", "pushes do not notice; posts under way are bounded by the workers"),
    "F5": Row("connections are accepted and never answered", "the post times out and is repeated with the same ids"),
    "F6": Row(
        "the other end of a connection is gone without a word", "noticed by the timeout; a new connection is used"
    ),
    "F7": Row("the connection is reset in the middle of an answer", "repeated with the same ids, nothing lost"),
    "F8": Row("an idle connection is reset just as it is used again", "repeated at once: one extra post, no warning"),
    "F9": Row("one event in 100 cannot be decoded (400)", "99 delivered, 1 `rejected`, at most 16 posts"),
    "F10": Row("the gateway refuses everything (400)", "nothing rejected; posts stop after at most 64"),
    "F11": Row("401: the key is missing", "nothing lost; at most one post every 30 s, one log line"),
    "F12": Row("401 for 5 s: the key was just made", "goes on by itself within 35 s, nothing lost"),
    "F13": Row("403: the key is disabled", "as F11"),
    "F14": Row("404, 405, 501: the URL is wrong", "kept; one log line in 10 minutes, which names the URL as the cause"),
    "F15": Row("408", "repeated, nothing lost"),
    "F16": Row("413: a body is too large", "halved by bytes; later batches stay below what was learnt"),
    "F17": Row("429 that means too large", "as F16, without a pause"),
    "F18": Row("a single event is too large", "that one is refused `too_large`, the others are delivered"),
    "F19": Row("429 with `Retry-After: 5`", "no post for 5 s, then at most 20 % later"),
    "F20": Row("429 with a date", "the same, by the clock of the gateway"),
    "F21": Row("`Retry-After` of a day, negative, infinite, garbage", "at most 300 s; the others are ignored"),
    "F22": Row("500, 502, 503, 504, 499, 529", "repeated; first retries of 100 clients are spread over the step"),
    "F23": Row("301, 302, 307, 308", "not followed: the key goes nowhere else; posts pause, one log line"),
    "F24": Row("200 with broken JSON", "repeated until the answer can be read, nothing lost"),
    "F25": Row("200 with nothing, or with `{}`", "delivered"),
    "F26": Row("200 with a web page (captive portal)", "not taken for success; nothing lost once it is gone"),
    "F27": Row("an answer without end", "read up to 1 MiB, then the connection is closed"),
    "F28": Row("a compressed bomb as the answer", "refused unread"),
    "F29": Row("the gateway asks to send some events again", "exactly those are sent again"),
    "F30": Row("the gateway refuses some events for good", "exactly those are `rejected`, with its words"),
    "F31": Row("the answer names ids that were never sent", "ignored and counted as `protocol_anomalies`"),
    "F32": Row("`errors` is a list, null, or of wrong types", "read where it can be, else as F24; nothing lost"),
    "F33": Row("an event is to be sent again for ever", "`expired` at the end of its lifetime; nobody waits for it"),
    "F34": Row("the name cannot be resolved", "kept and tried again, nothing lost"),
    "F35": Row("the resolver hangs", "`aclose(2)` returns within 2.25 s; the exit may wait for the system's resolver"),
    "F36": Row("the name moves to another address", "the new address is used once old connections end; nothing lost"),
    "F37": Row(
        "certificate expired, for another host, of an unknown authority; TLS 1.1", "no byte of a request leaves; kept"
    ),
    "F38": Row(
        "private authority, client certificates, proxy with a password, `NO_PROXY`", "works; no credentials in logs"
    ),
    "F39": Row("an awaited push is cancelled", "the event is in or out, never half; counts stay exact over 1 000"),
    "F40": Row("`aclose()` is cancelled", "the caller returns at once, the drain goes on, a second call joins it"),
    "F41": Row("the body of `async with` raises", "drained, and the exception arrives as it was"),
    "F42": Row("closing during an outage, 2 s allowed", "the report arrives within 2.25 s and says what is left"),
    "F43": Row("`aclose(0)`", "the report arrives at once"),
    "F44": Row("closed twice, by 50 tasks, by another task than the one that started", "one drain, one report"),
    "F45": Row("pushed while closing and afterwards", "refused `not_running`, and counted"),
    "F46": Row("the queue is full", "each policy does what it says, to the event; metrics give way above 90 %"),
    "F47": Row("the bytes are full before the count", "as F46; held bytes never exceed the bound"),
    "F48": Row("the wall clock jumps", "intervals do not notice; nothing expires by it"),
    "F49": Row(
        "the wall clock is 2 hours ahead", "one warning, from the gateway's `Date`; events are sent as they are"
    ),
    "F50": Row(
        "emoji, right-to-left, NUL, lone surrogates",
        "a lone surrogate is refused where the value is made; the rest arrives",
    ),
    "F51": Row("NaN, infinities, negative zero, huge numbers", "not finite: refused `invalid`; the rest arrives"),
    "F52": Row(
        "an attribute of 1 MB; 10 000 attributes", "refused `too_large`; no turn of the loop handles more than 1 MiB"
    ),
    "F53": Row("values of wrong types", "`TypeError` where the value is made; a push never raises"),
    "F54": Row("attributes are changed after the push", "the event is as it was at the push"),
    "F55": Row("numbers beyond their range", "refused `invalid`"),
    "F56": Row("the process forks with events queued", "the child starts empty; the parent delivers each event once"),
    "F57": Row(
        "used from a second loop; two `asyncio.run`", "`WrongLoopError` from what awaits; nowait pushes are counted"
    ),
    "F58": Row("the loop is closed without a close", "one ResourceWarning with the number; `abandoned`"),
    "F59": Row("SIGTERM under uvicorn, hypercorn, granian, gunicorn; twice", "drained: delivered equals accepted"),
    "F60": Row("`--reload`, `--limit-max-requests`, Ctrl-C", "drained"),
    "F61": Row("SIGKILL with a durable spool", "every event older than 100 ms is delivered after the restart"),
    "F62": Row(
        "spool torn, flipped, full, read-only, in use, out of date",
        "one warning; what can be read is kept, the service goes on",
    ),
    "F63": Row(
        "the process is frozen for 10 minutes between two calls", "the stale connection is replaced; `flush()` delivers"
    ),
    "F64": Row("`on_drop` raises, blocks, pushes", "nobody notices; it does not feed itself"),
    "F65": Row("a bug in a flush task", "the batch goes back to the queue; counts stay exact"),
    "F66": Row("8 threads and the loop push 1 000 000 events", "exact, nothing lost"),
    "F67": Row("5 000 clients recover together", "their probes are spread: the peak is at most 3 times the mean"),
    "F68": Row(
        "our own metrics events during an outage",
        "at most 10 % of the queue is kept for others; no post makes more than one",
    ),
    "F69": Row("uvloop; eager tasks", "the same promises hold"),
    "F70": Row("key, tag or header with line breaks or beyond ASCII", "refused where it is made; no request leaves"),
}


def spaced(number: int) -> str:
    """A number as the matrix writes it: 10 000."""
    return f"{number:,}".replace(",", " ")
