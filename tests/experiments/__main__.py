"""Runs all scenarios, and writes the page: ``nox -s experiments``."""

from __future__ import annotations

from tests.experiments import page


def main() -> None:
    """Simulate every cell of the tables; takes about a minute."""
    page.save({name: page.figures(scenario) for name, scenario in page.cells().items()})


if __name__ == "__main__":
    main()
