"""What the network's and the library's errors mean: an outcome, and a clause for users.

The texts of aiohttp and OpenSSL are not shown ("TransferEncodingError: 400, message=…",
"[SSL: CERTIFICATE_VERIFY_FAILED] … (_ssl.c:1032)"): a clause says what happened to which
connection.
"""

import errno
import os
import ssl

import aiohttp
import aiohttp.http_exceptions

from kproxy import errors
from kproxy.model import addresses
from kproxy.sources.api.decisions import progress

CAUGHT = (aiohttp.ClientError, aiohttp.http_exceptions.HttpProcessingError, OSError, ValueError)
"""The base classes of all failures. HttpProcessingError, with LineTooLong, is no ClientError."""

_RESET = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


def before_answer(error: BaseException) -> tuple[progress.Outcome, str]:
    """Why a request was not answered."""
    if is_of_tls(error):
        return progress.Outcome.TLS_FAILED, f"TLS failed: {_of_tls(error)}"
    match error:
        case aiohttp.ClientHttpProxyError():
            text = f"the proxy answers {error.status} {_clean(error.message)}".rstrip()
            return progress.Outcome.UNREACHABLE, text
        case aiohttp.ClientConnectorError():
            return _of_connect(error)
        case aiohttp.ServerDisconnectedError():
            text = "the server closed the connection instead of an answer"
            return progress.Outcome.LOST, text
        case aiohttp.ServerTimeoutError():
            return progress.Outcome.UNREACHABLE, "no connection in time"
        case aiohttp.ClientResponseError() | aiohttp.http_exceptions.HttpProcessingError():
            text = f"the answer is not HTTP as it should be: {_clean(error.message)}"
            return progress.Outcome.UNREACHABLE, text
        case OSError() if error.errno in _RESET or isinstance(error, ConnectionError):
            return progress.Outcome.LOST, "the connection was reset before an answer"
        case UnicodeError() if "idna" in str(error):
            text = (
                "the server, its proxy or tls-server-name has a name that DNS does not allow: "
                "a part of it is empty, or longer than 63 letters"
            )
            return progress.Outcome.UNREACHABLE, text
        case ValueError() if "in headers" in str(error):
            text = "the token, or a name to act as, has a control character, and no header may"
            return progress.Outcome.UNREACHABLE, text
    return progress.Outcome.UNREACHABLE, _clean(str(error)) or type(error).__name__


def within_answer(error: BaseException) -> tuple[progress.Outcome, str]:
    """Why an answer ended before its end."""
    if is_of_tls(error):
        return progress.Outcome.BROKEN_OFF, f"TLS failed: {_of_tls(error)}"
    match error:
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
            return progress.Outcome.BROKEN_OFF, "the connection was cut within an answer"
        case OSError() if error.errno in _RESET:
            return (
                progress.Outcome.BROKEN_OFF,
                "the connection was reset within an answer",
            )
        case OSError() if error.errno:
            return progress.Outcome.BROKEN_OFF, f"the connection broke: {os.strerror(error.errno)}"
    text = "the answer is not HTTP as it should be"
    return progress.Outcome.BROKEN_OFF, f"{text}: {_clean(str(error)) or type(error).__name__}"


def is_of_tls(error: BaseException) -> bool:
    """Whether TLS failed: in the handshake, or after it, as a refusal in TLS 1.3 does."""
    return isinstance(error, aiohttp.ClientSSLError | ssl.SSLError) or isinstance(
        error.__cause__, ssl.SSLError
    )


def may_refuse_certificate(error: BaseException) -> bool:
    """Whether a server that ends a connection so may have refused the client's certificate.

    In TLS 1.3 it does so after the handshake, and a reset may overtake the alert that says why.
    """
    if isinstance(error, aiohttp.ClientConnectorError):
        # Failed while connecting. ECONNREFUSED says nothing about our certificate.
        return is_of_tls(error) or error.os_error.errno in {None, errno.ECONNRESET}
    return isinstance(error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError)


def _of_connect(error: aiohttp.ClientConnectorError) -> tuple[progress.Outcome, str]:
    where = addresses.SocketAddress(error.host, error.port or 0)
    number = error.os_error.errno
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        why = error.os_error.strerror or _clean(str(error.os_error))
        return progress.Outcome.UNREACHABLE, f"the name {error.host} has no address: {why}"
    if number == errno.ECONNREFUSED or isinstance(error.os_error, ConnectionRefusedError):
        return progress.Outcome.REFUSED, f"connection refused by {where}"
    if number in _RESET or (number is None and isinstance(error.os_error, ConnectionError)):
        return progress.Outcome.LOST, f"the connection to {where} was closed before an answer"
    # The event loop makes one error of several addresses' errors, without a number.
    why = os.strerror(number) if number else _clean(str(error.os_error))
    return progress.Outcome.UNREACHABLE, f"no connection to {where}: {why}"


def _of_tls(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        found: BaseException | None = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        found = error.os_error
    else:
        found = error if isinstance(error, ssl.SSLError) else error.__cause__
    if isinstance(found, ssl.SSLCertVerificationError):
        return f"the server's certificate is not valid: {_clean(found.verify_message)}"
    if isinstance(found, ssl.SSLError) and found.reason:
        return found.reason.replace("_", " ").lower()
    return "the connection was closed during the handshake"


def _clean(text: str) -> str:
    return errors.in_one_line(ValueError(text)) if text.strip() else ""
