"""Benchmarks: this SDK beside LaunchDarkly's async client, each in a process of its own, which measure in turns.

``sections.py`` says what is measured, and which rows come of it. ``ours.py``, ``launchdarkly.py``, ``bare.py`` and
``imports.py`` are the processes that measure, with the means of ``measuring.py``; ``flags.py`` has the flags that they
evaluate, and ``sink.py`` is the server that they send to. ``processes.py`` starts them all, ``rows.py`` computes
figures and ratios, ``machine.py`` names the machine and the build of Python, and ``page.py`` writes the page.
``path.py`` counts the functions that an event and an evaluation pass.
"""
