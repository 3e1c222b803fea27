"""The load of every rank over HTTP, in the form that each consumer speaks: needs ``pip install 'snapring[serve]'``.

:func:`app` is an ASGI application with every route; the middlewares add load to the responses of another application,
or turn requests away from one that is overloaded. Nothing here is loaded by ``import snapring``.
"""

import logging

from snapring.serve.app import LoadsApp, app, routes
from snapring.serve.collector import LoadCollector
from snapring.serve.orca import OrcaMiddleware
from snapring.serve.overload import OverloadMiddleware

__all__ = ["LoadCollector", "LoadsApp", "OrcaMiddleware", "OverloadMiddleware", "app", "routes"]

logging.getLogger("snapring").addHandler(logging.NullHandler())  # silent unless the host listens
