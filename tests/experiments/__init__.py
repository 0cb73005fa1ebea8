"""A simulation of experiments: the events of a processor, in virtual time, and which of its goals the server counts.

``simulation.py`` makes the traffic, posts it, and links the goals; ``page.py`` writes the tables of the page
"Experiments: delivered, and counted"; ``__main__.py`` runs everything and writes the page.
"""
