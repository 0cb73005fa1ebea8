"""Requests to the gateway, and their JSON."""
