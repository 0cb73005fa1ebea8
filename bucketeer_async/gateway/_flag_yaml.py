"""Parser of YAML flag files; ``on``, ``off``, ``yes`` and ``no`` are strings, because variations have such names."""

from __future__ import annotations

import re
from typing import Any

import yaml

from bucketeer_async._evaluation._yaml_loader import LimitedLoader


class Loader(LimitedLoader):
    """PyYAML's safe loader, except that only ``true`` and ``false`` are booleans, and dates are strings."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared so by the base class
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(?:true|false)$"), list("tf"))


def parse(text: str) -> Any:
    """Parse a YAML document.

    Raises:
        RecursionError: If the text is nested too deeply.
        ValueError: If the text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
