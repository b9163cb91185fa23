"""The logger of the simulator's HTTP servers: it logs bugs, and no malformed requests.

aiohttp logs every request that it cannot read, with a traceback and the text of the request.
"""

import logging

from aiohttp import http_exceptions

LOGGER = logging.getLogger(__name__)
"""The value of aiohttp's `logger` option."""


def _is_a_bug(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, http_exceptions.HttpProcessingError | ConnectionError)


LOGGER.addFilter(_is_a_bug)
