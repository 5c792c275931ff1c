"""The token routes of a collector that runs on this machine.

Comes in: its address, from the lock of the database, and the files with its admin token.
Start at `RunningCollector`.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from trainvitals_server.auth import Scope
from trainvitals_server.auth.tokens import Known

_TIMEOUT_S: Final = 10.0
_ANSWER_BYTES_MAX: Final = 16 * 2**20
_PATH: Final = "/api/v1/tokens"
_DAY_S: Final = 86_400


class NoAnswer(Exception):  # noqa: N818 - shown to the operator
    """The collector did not carry out the request; the message says what to do."""


class RunningCollector:
    """Creates, lists and revokes tokens as `auth.Tokens` does, over HTTP.

    `certificate`: the collector's own, which is then trusted under every name.
    """

    def __init__(self, url: str, token_files: Sequence[Path], certificate: Path | None) -> None:
        self._url = urlsplit(url)
        self._token_files = token_files
        self._certificate = certificate

    def create(
        self, scope: Scope, *, project: str | None, label: str, lifetime_s: float | None
    ) -> str:
        """Create a token and return it.

        Raises:
            NoAnswer: the collector does not answer, or refuses.
        """
        days = None if lifetime_s is None else lifetime_s / _DAY_S
        wanted = {"scope": str(scope), "project": project, "label": label, "days": days}
        return str(self._ask("POST", _PATH, wanted)["token"])

    def all(self) -> list[Known]:
        """Return every token, without its secret, oldest first.

        Raises:
            NoAnswer: the collector does not answer, or refuses.
        """
        return [Known(**token) for token in self._ask("GET", _PATH)["tokens"]]

    def revoke(self, token_id: str) -> bool:
        """Revoke a token; return False when no valid token has this id.

        Raises:
            NoAnswer: the collector does not answer, or refuses.
        """
        # An answer with a body says why the token is not revoked.
        return not self._ask("DELETE", f"{_PATH}/{quote(token_id, safe='')}")

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the answer: with the first token file that the collector accepts."""
        for file in self._token_files:
            try:
                token = file.read_text().strip()
            except (OSError, UnicodeDecodeError):
                continue
            status, answer = self._exchange(method, path, body, token)
            if status in (401, 403):
                continue
            if status < 300 or (method == "DELETE" and status in (404, 422)):
                return answer
            raise NoAnswer(str(answer.get("detail", f"It answered {status}.")))
        names = ", ".join(map(str, self._token_files))
        raise NoAnswer(
            f"No file has an admin token of this collector: {names}. Run the command as the "
            "collector's user, with the same TRAINVITALS_HOME and TRAINVITALS_TOKEN_FILE."
        )

    def _exchange(
        self, method: str, path: str, body: object, token: str
    ) -> tuple[int, dict[str, Any]]:
        headers = {
            "Host": "localhost",  # every collector accepts it; it may not accept its own address
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
        }
        sent = None if body is None else json.dumps(body)
        connection = self._connection()
        try:
            connection.request(method, path, sent, headers)
            response = connection.getresponse()
            text = response.read(_ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: the token file has a character that a header cannot have.
            raise NoAnswer(f"It does not answer: {error}.") from error
        finally:
            connection.close()
        try:
            answer = json.loads(text) if text else {}
        except ValueError as error:
            raise NoAnswer(f"It answered {response.status}, which is not JSON.") from error
        return response.status, answer

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
        context = ssl.create_default_context(cafile=self._certificate)
        # The certificate is the collector's own; its names are those that other machines use.
        context.check_hostname = self._certificate is None
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
