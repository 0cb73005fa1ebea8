"""Events, from a push to a settled receipt.

::

    push (any thread) --> _processor --> _encoder: the event's JSON, time and id
                              |
                              v
                          _intake: accepted or refused (_bounds), queued (_queue)
                              |
                          _ledger: handed out, taken back, settled, counted (_counters)
                              |                                    ^
                 _collector: a batch that is due                   | settled, or back to the queue or the quarantine
                              | asyncio.Queue                      |
                              v                                    |
                          _batch: one of the flush tasks posts it, and reads the response
                              |
                              v
                          Lease.register_events (`_transport`)

- `_processor` is where the way begins, and what applications see. `_pipeline` makes the parts, starts and drains them.
- `_receipt` is the record of one event. `_epochs` tell a flush what it waits for. `_wakeups` wake the loop from any
  thread.
- `_circuit` pauses all posts in an outage. `_quarantine` keeps apart the events that fail while the gateway is available;
  `_suspicion` is what is known of one of them. `_limits` learns how large a batch may be. What an error means is decided
  in `bucketeer_async/_retry.py`.
- `_losses` and `_drop_listener` report events that are not delivered. `_delivery_log` has the log lines about outages.
  `_error_metrics` has the metrics message for an error.
- `_spool_writer` keeps events on disk, in the file of `_spool_file`, whose rows are those of `_spool_rows`.
  `_spool_access` has one owner at a time use the file, and `_spool_salvage` reads damaged ones.

Elsewhere: the requests themselves (`_transport`), and flags (`_flags`), which push events and are not known in this
folder.
"""
