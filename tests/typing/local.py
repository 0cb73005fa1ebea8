"""Only type checkers read this: the real client is what the local evaluator needs."""

from __future__ import annotations

import logging

from bucketeer_async import ApiClient, LocalEvaluation
from bucketeer_async._flags._local import LocalEvaluator
from bucketeer_async._flags._poller import PollingMetrics


def local_evaluator(api: ApiClient, metrics: PollingMetrics) -> LocalEvaluator:
    return LocalEvaluator(api, LocalEvaluation(), tag="shop", metrics=metrics, logger=logging.getLogger())
