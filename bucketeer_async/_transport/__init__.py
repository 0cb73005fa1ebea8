"""Requests to the gateway, and their JSON.

A request goes one way, down: `_api` (`ApiClient`, where the way begins, and `Lease`, one processor's use of it) makes
it, `_connections` gives it room and a task, and `_http` sends it, the one file that knows httpx. The answer comes back
as a return value.

- `_codec` encodes requests and decodes answers, into the values of `_responses`; `_json_reader` reads long JSON in pieces.
- `_endpoint` checks the address of the gateway, and keeps the API key redacted.

Elsewhere: what to do about an error (`bucketeer_async/_retry.py`), and what events and flags are.
"""
