"""Benchmarks: this SDK beside others, each in a process of its own, against a sink in another one.

``sink.py`` takes events and counts them; ``contestants.py`` says how each SDK is used; ``delivery.py`` runs one of
them once and measures; ``questions.py``, ``environment.py``, ``growth.py`` and ``parts.py`` measure one thing each;
``path.py`` counts the functions that an event and an evaluation pass. ``__main__.py`` runs them again and again, and ``page.py`` writes down what came of it.
"""
