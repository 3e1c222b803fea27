"""Requests to etcd's JSON gateway with what the standard library has: endpoints in turn, deadlines, log-in."""

import http.client
import json
import os
import ssl
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from snapring.errors import InvalidValue, RendezvousFailed, RingUntrusted, StoreUnavailable
from snapring.rendezvous.etcd_connection import post
from snapring.rendezvous.group import MAX_ENTRY_BYTES, MAX_SIZE, check_seconds

__all__ = ["PASSWORD_VARIABLE", "Gateway"]

PASSWORD_VARIABLE: Final = "SNAPRING_ETCD_PASSWORD"

MAX_ANSWER_BYTES: Final = min(64 * 2**20, MAX_SIZE * MAX_ENTRY_BYTES)
"""An answer beyond this is not read: no folder of ours is as large."""

SHORTEST_S: Final = 0.01

# Codes of gRPC, as the gateway passes them on.
_INVALID_ARGUMENT, _PERMISSION_DENIED, _FAILED_PRECONDITION, _UNAUTHENTICATED = 3, 7, 9, 16
_FOR_GOOD: Final = {_INVALID_ARGUMENT, _PERMISSION_DENIED, _FAILED_PRECONDITION}


class _LoggedOut(Exception):
    """The token is missing, wrong or too old."""


class Gateway:
    """One cluster's endpoints, and a token where it wants one. Threads may share it; it keeps no connection."""

    def __init__(
        self, urls: Sequence[str], *, tls: ssl.SSLContext | None, user: str | None, password_file: str | None
    ) -> None:
        if not urls:
            raise InvalidValue("etcd needs at least one endpoint, such as http://127.0.0.1:2379")
        self._endpoints = [_endpoint(url) for url in urls]
        self._tls, self._user, self._password_file = tls, user, password_file
        self._token = ""

    def describe(self) -> str:
        """The endpoints, without anything secret."""
        return ", ".join(f"{url.scheme}://{url.netloc}" for url in self._endpoints)

    def ask(self, path: str, request: Mapping[str, object], timeout: float) -> dict[str, object]:
        """The answer to one request, logged in first where that is needed, within ``timeout`` seconds."""
        end = time.monotonic() + check_seconds(timeout, "a timeout")
        try:
            if self._user and not self._token:
                self._log_in(end)
            return self._any(path, request, end)
        except _LoggedOut as error:
            if not self._user:
                raise RendezvousFailed(f"{self.describe()} wants a log-in; give user= and a password file") from error
            self._log_in(end)
        try:
            return self._any(path, request, end)
        except _LoggedOut as error:
            raise RendezvousFailed(f"{self.describe()} does not believe its own token: {error}") from error

    def _log_in(self, end: float) -> None:
        password = _secret(self._password_file) if self._password_file else os.environ.get(PASSWORD_VARIABLE, "")
        try:
            answer = self._any("/v3/auth/authenticate", {"name": self._user, "password": password}, end)
        except _LoggedOut as error:
            raise RendezvousFailed(f"{self.describe()} refuses user {self._user}: {error}") from error
        self._token = str(answer.get("token", ""))

    def _any(self, path: str, request: Mapping[str, object], end: float) -> dict[str, object]:
        """The first good answer; each endpoint that is still to be asked keeps a fair share of the time."""
        faults = []
        for count, url in enumerate(list(self._endpoints)):
            share = max(SHORTEST_S, (end - time.monotonic()) / (len(self._endpoints) - count))
            try:
                answer = self._one(url, path, request, share)
            except (OSError, http.client.HTTPException, ValueError) as error:
                faults.append(f"{url.netloc}: {str(error) or type(error).__name__}")
            else:
                if count:  # ask first next time who answered this time
                    self._endpoints = [url, *(other for other in self._endpoints if other is not url)]
                return answer
        raise StoreUnavailable(f"etcd does not answer; start it or correct its address: {'; '.join(faults)}")

    def _one(self, url: SplitResult, path: str, request: Mapping[str, object], timeout: float) -> dict[str, object]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = self._token
        tls = (self._tls or ssl.create_default_context()) if url.scheme == "https" else None
        place = (url.hostname or "", url.port or 0)
        status, body = post(place, path, json.dumps(request).encode(), headers, timeout, tls=tls, most=MAX_ANSWER_BYTES)
        return _judge(status, body)


def _endpoint(url: str) -> SplitResult:
    """The parts of an endpoint that has a scheme, a host and a port, and nothing else: messages show it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port and parts.path in {"", "/"}
        shown = f"{parts.scheme}://{parts.hostname}"  # no more of it, as there may be a password
    except ValueError:
        raise InvalidValue("an endpoint is no URL; write it as http://HOST:PORT") from None
    if not good or set("@?#") & set(url):
        raise InvalidValue(f"{shown} is no endpoint; write it as http://HOST:PORT, and give a user by user=")
    return parts


def _secret(path: str) -> str:
    """The first line of a file that only its owner may read."""
    try:
        with Path(path).open() as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            line = stream.readline().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RendezvousFailed(f"cannot read the password file {path}: {error}") from error
    if mode & 0o077:
        raise RingUntrusted(f"the password file {path} has mode {mode:o}, so others may read it; chmod 600 {path}")
    return line


def _judge(status: int, body: bytes) -> dict[str, object]:
    """The answer, or the error that it stands for; ValueError when asking elsewhere or later may help."""
    answer = json.loads(body)
    if not isinstance(answer, dict):
        raise ValueError(f"status {status} without a JSON object")  # noqa: TRY004  one class for "try elsewhere"
    if status == http.client.OK:
        return answer
    message, code = answer.get("message") or answer.get("error"), answer.get("code")
    if code == _UNAUTHENTICATED or "invalid auth token" in str(message) or "user name is empty" in str(message):
        raise _LoggedOut(str(message))
    if code in _FOR_GOOD:
        raise RendezvousFailed(f"etcd refuses: {message}")
    raise ValueError(f"status {status}: {message}")
