"""Events, from a push to a settled receipt.

::

    push (any thread) --> _processor --> _encoder: the event's JSON, time and id
                              |
                              v
                          _ledger: accepted or refused (_bounds), queued (_queue), counted (_counters)
                              |                                    ^
                 _collector: a batch that is due                   | settled, or back to the queue or the quarantine
                              | asyncio.Queue                      |
                              v                                    |
                          _batch: one of the flush tasks posts it, and reads the answer
                              |
                              v
                          Lease.register_events (`_transport`)

- `_processor` is where the way begins, and what applications see. `_pipeline` makes the parts, starts and drains them.
- `_receipt` is the record of one event, `_epochs` tells a flush what it waits for, `_wakeups` reach the loop from threads.
- `_circuit` pauses all posts in an outage, `_quarantine` keeps apart what fails while the gateway is available
  (with what `_suspicion` knows of each record), `_limits` is the size of a batch that was learnt. What an answer means is a decision of `bucketeer_async/_retry.py`.
- `_losses` and `_drop_listener` report events that are not delivered; `_error_metrics` names failures.
- `_spool_writer` keeps events on disk, in the file of `_spool_file`.

Elsewhere: the requests themselves (`_transport`), and flags (`_flags`), which push events and are not known in this
folder.
"""
