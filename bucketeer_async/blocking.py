"""Clients in programs without an event loop, such as scripts, Flask, Django views and Celery tasks."""

from bucketeer_async._client_thread import ClientThread

__all__ = ["ClientThread"]

ClientThread.__module__ = __name__  # as in the root
