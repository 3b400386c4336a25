"""The dashboard: HTTP API, live stream and one static page over a `CurriculumReader`.

Translation only: no decision is made here and nothing is stored. The one write is the strategy's.
"""

from sampler_service.dashboard.app import create_app
from sampler_service.dashboard.reader import CurriculumReader, ReadError, StrategyWriter
from sampler_service.dashboard.serving import DashboardServer
from sampler_service.dashboard.settings import HttpSettings

__all__ = ["CurriculumReader", "DashboardServer", "HttpSettings", "ReadError", "StrategyWriter", "create_app"]
