"""Flags, from a poll or a request to a value.

::

    Client.bool_variation                        gateway
      | user, flag, default                        | changes of flags and segments
      v                                            v
    _evaluations --- value or default, event     _poller --- _sync: what to request, what a response changes
      |                                            |         _schedule: when the next poll is due
      |-- _remote: a request per evaluation        v
      '-- _local: from what is cached <--------- _published: what is evaluated now, and who is called when it changes

- `_conversion` turns the text of a variation into a value, `_reasons` an error into the reason for a default.
- `_definitions` has one flag and one segment as they are cached, `_snapshot_file` all of them as bytes for a bootstrap.
- `_own_metrics` pushes the metrics events of evaluations and polls.

Elsewhere: which variation a flag gives to a user (`_evaluation`), requests and responses (`_transport`), and the
delivery of events (`_events`), of which no more is known here than a push.
"""
