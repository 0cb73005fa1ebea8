"""Requests to the gateway, and their JSON.

A request goes one way, down. It begins in `_api`, where `ApiClient` has a coroutine for each endpoint, or in `_lease`: a
`Lease` is one processor's use of it, for posts. `_connections` gives the request a slot and a task. `_http` sends it, and
is the one file that knows httpx. The response comes back as a return value.

- `_codec` encodes requests, and decodes responses into the values of `_responses`; `_json_reader` parses long JSON in
  parts.
- `_trace` follows how far a request has come, and makes errors of this package of the HTTP library's.
- `_error_responses` makes errors of responses with another status than 200.
- `_network_env` reads the environment variables about proxies and certificates.
- `_endpoint` validates the URL of the gateway and the API key, and redacts the key.

Elsewhere: what to do about an error (`bucketeer_async/_retry.py`), what is requested and when (`_flags`), and the JSON of
events, which arrives here encoded (`_events`).
"""
