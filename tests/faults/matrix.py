"""The fault matrix: every fault that delivery and polling are tested against, with the promise for it.

The numbers are stable names; tests, documentation and changelog use them.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple

#: Whether this is `nox -s faults`: full numbers, every server, and the matrix at the end.
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
    "F4": Row(
        "the gateway responds after 15 s", "pushes are not affected; the workers limit the number of posts in flight"
    ),
    "F5": Row(
        "connections are accepted, but requests are never answered",
        "the post times out and is repeated with the same ids",
    ),
    "F6": Row(
        "the peer of a connection disappears without closing it", "detected by the timeout; a new connection is used"
    ),
    "F7": Row("the connection is reset in the middle of a response", "repeated with the same ids, nothing lost"),
    "F8": Row("an idle connection is reset just as it is used again", "repeated at once: one extra post, no warning"),
    "F9": Row("one event in 100 cannot be decoded (400)", "99 delivered, 1 `rejected`, at most 16 posts"),
    "F10": Row("the gateway refuses everything (400)", "nothing rejected; posts stop after at most 64"),
    "F11": Row(
        "401: the key is missing", "nothing lost; after probes at 1 s and 5 s at most one post every 30 s, one log line"
    ),
    "F12": Row("401 for 5 s: the key was just created", "delivery resumes by itself within 35 s, nothing lost"),
    "F13": Row("403: the key is disabled", "as F11"),
    "F14": Row(
        "404, 405, 501: the URL is wrong",
        "events are kept; one log line in 10 minutes, which names the URL as the cause",
    ),
    "F15": Row("408", "repeated, nothing lost"),
    "F16": Row("413: a body is too large", "split in half by bytes; later batches stay below the learned limit"),
    "F17": Row("429 that means too large", "as F16, without a pause"),
    "F18": Row("a single event is too large", "that event is refused as `too_large`, the others are delivered"),
    "F19": Row("429 with `Retry-After: 5`", "no post for 5 s, then at most 20 % later"),
    "F20": Row("429 with a date", "as F19, by the clock of the gateway"),
    "F21": Row("`Retry-After` of a day, negative, infinite, garbage", "at most 300 s; other values are ignored"),
    "F22": Row("500, 502, 503, 504, 499, 529", "repeated; the first retries of 100 clients are spread over the step"),
    "F23": Row("301, 302, 307, 308", "not followed: the key is sent to no other host; posts pause, one log line"),
    "F24": Row("200 with broken JSON", "repeated until the response can be read, nothing lost"),
    "F25": Row("200 with an empty body, or with `{}`", "delivered"),
    "F26": Row("200 with a web page (captive portal)", "not treated as success; nothing lost once the portal is gone"),
    "F27": Row("an endless response", "read up to 1 MiB, then the connection is closed"),
    "F28": Row("a decompression bomb as the response", "refused without decompressing it"),
    "F29": Row("the gateway requests some events again", "exactly these events are sent again"),
    "F30": Row("the gateway rejects some events", "exactly these events are `rejected`, with the gateway's message"),
    "F31": Row("the response names ids that were never sent", "ignored and counted as `protocol_anomalies`"),
    "F32": Row(
        "`errors` is a list, null, or of wrong types", "read as far as possible, otherwise as F24; nothing lost"
    ),
    "F33": Row(
        "the gateway requests one event again and again",
        "`expired` at the end of its lifetime; other events do not wait for it",
    ),
    "F34": Row("the host name cannot be resolved", "events are kept and retried, nothing lost"),
    "F35": Row(
        "the resolver hangs",
        "`aclose(2)` returns within 2.25 s; the process may exit late because of the system's resolver",
    ),
    "F36": Row(
        "the host name moves to another address", "the new address is used once the old connections end; nothing lost"
    ),
    "F37": Row(
        "certificate expired, for another host, or of an unknown authority; TLS 1.1",
        "no byte of a request is sent; events are kept",
    ),
    "F38": Row(
        "private authority, client certificates, proxy with a password, `NO_PROXY`", "works; no credentials in logs"
    ),
    "F39": Row(
        "an awaited push is cancelled",
        "the event is accepted or not, never half; counts stay exact over 1 000 cancellations",
    ),
    "F40": Row(
        "`aclose()` is cancelled", "the caller returns at once, the drain continues, a second call joins the drain"
    ),
    "F41": Row("the body of `async with` raises", "drained, and the exception is raised unchanged"),
    "F42": Row("closing during an outage, 2 s allowed", "the report arrives within 2.25 s and states what is left"),
    "F43": Row("`aclose(0)`", "the report arrives at once"),
    "F44": Row("closed twice, by 50 tasks, by a task other than the one that started it", "one drain, one report"),
    "F45": Row("pushes during and after closing", "refused as `not_running`, and counted"),
    "F46": Row("the queue is full", "each policy holds exactly; metrics events are refused above 90 %"),
    "F47": Row(
        "the limit in bytes is reached before the limit in events",
        "as F46; the size of the events in memory never exceeds the limit",
    ),
    "F48": Row("the wall clock jumps", "intervals are not affected; no event expires because of it"),
    "F49": Row("the wall clock is 2 hours ahead", "one warning, from the gateway's `Date`; events are sent unchanged"),
    "F50": Row(
        "emoji, right-to-left, NUL, lone surrogates",
        "a lone surrogate is refused when the value is constructed; all other texts arrive",
    ),
    "F51": Row(
        "NaN, infinities, negative zero, huge numbers",
        "values that are not finite are refused as `invalid`; all other values arrive",
    ),
    "F52": Row(
        "an attribute of 1 MB; 10 000 attributes", "refused as `too_large`; no turn of the loop handles more than 1 MiB"
    ),
    "F53": Row("values of wrong types", "`TypeError` when the value is constructed; a push never raises"),
    "F54": Row("attributes are changed after the push", "the event is sent as it was when it was pushed"),
    "F55": Row("numbers beyond their range", "refused as `invalid`"),
    "F56": Row("the process forks with events queued", "the child starts empty; the parent delivers each event once"),
    "F57": Row(
        "used from a second loop; two calls of `asyncio.run`",
        "awaiting calls raise `WrongLoopError`; `nowait` pushes are counted",
    ),
    "F58": Row(
        "the event loop is closed, but the processor is not",
        "one `ResourceWarning` with the number of events, which are `abandoned`",
    ),
    "F59": Row(
        "SIGTERM, once and twice, under uvicorn, hypercorn, granian, gunicorn", "drained: delivered equals accepted"
    ),
    "F60": Row("`--reload`, `--limit-max-requests`, Ctrl-C", "drained"),
    "F61": Row("SIGKILL with a durable spool", "every event older than 100 ms is delivered after the restart"),
    "F62": Row(
        "the spool is torn, flipped, full, read-only, in use, out of date",
        "one warning; what can be read is kept, the service continues",
    ),
    "F63": Row(
        "the process is frozen for 10 minutes between two calls", "the stale connection is replaced; `flush()` delivers"
    ),
    "F64": Row(
        "`on_drop` raises, blocks, pushes", "delivery is not affected; the callback is not called for its own pushes"
    ),
    "F65": Row("a bug in a flush task", "the batch goes back to the queue; counts stay exact"),
    "F66": Row("8 threads and the loop push 1 000 000 events", "counts are exact, nothing lost"),
    "F67": Row("5 000 clients recover together", "their probes are spread: the peak is at most 3 times the mean"),
    "F68": Row(
        "the SDK's own metrics events during an outage",
        "10 % of the queue is kept for other events; a post creates at most one metrics event",
    ),
    "F69": Row("uvloop; eager tasks", "the same promises hold"),
    "F70": Row(
        "key or version beyond printable ASCII; tag that is blank or has line breaks",
        "refused at construction; no request is sent",
    ),
    "F71": Row(
        "the gateway takes all events but one (500, 403, 400 or 429, a reset, silence)",
        "the others delivered within 30 s; the one in quarantine, and not waited for by `aclose()`",
    ),
    "F72": Row("posts fail at random", "nothing lost, nothing left in quarantine"),
    "F73": Row(
        "a true outage, with suspects and with batches on the way; a gateway up and down each second",
        "nothing lost, nothing left in quarantine",
    ),
    "F74": Row(
        "1 000 events that cannot be taken, before or behind 1 000 good ones", "the good ones within 10 minutes"
    ),
    "F75": Row("more such events than a tenth of the queue", "the worst of them displaced, no good event"),
    "F76": Row("such an event in the spool, over three restarts", "in quarantine from the start; the good ones in 5 s"),
    "F77": Row("a proxy resets bodies above 20 kB", "all delivered; later bodies are smaller"),
    "F78": Row("413 for 0.6 s", "the limit grows back to the configured one"),
    "F79": Row("a third of the replicas refuses everything for 10 s (400)", "nothing rejected"),
    "F80": Row(
        "the gateway takes 2 s per evaluation for 6 s; 260 evaluations a second, whose callers wait 0.1 s",
        "at least 95 % of those begun 1 s after these 6 s are in time",
    ),
    "F81": Row("100 evaluations at once; the gateway answers after 20 ms", "no default; as cheap as 10 at once"),
    "F82": Row(
        "a poll is answered by `{}`, without a field, with a time beyond 64 bits, or with a lone surrogate",
        "a failed poll that changes nothing; the next good response is used",
    ),
    "F83": Row(
        "a segment is edited; the gateway's caches have the edit a minute later, and clients start or poll meanwhile",
        "each client has the edit at most 2 polls after the caches have it",
    ),
    "F84": Row(
        "a close while starting, with a busy executor; a close whose caller is cancelled; a loop moved to another "
        "thread; a fork and `sys.exit` inside the loop",
        "the close keeps its deadline; events pushed on either thread are delivered; 0 posts by the child",
    ),
}


def spaced(number: int) -> str:
    """Return a number in the form of the matrix: 10 000."""
    return f"{number:,}".replace(",", " ")
