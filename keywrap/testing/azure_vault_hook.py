"""The strict reference of Key Vault inside a real client of Azure: no server, no port.

Policies, tokens, serialising and time limits are azure-core's own; only the socket is missing.
"""

import io
from typing import Any

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from keywrap.testing.azure_vault import LostReplyError, StrictVault


class VaultAdapter(BaseAdapter):
    """Takes the place of requests' own adapter.

    Args:
        vault: answers.
    """

    def __init__(self, vault: StrictVault) -> None:
        super().__init__()
        self._vault = vault

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401 - as requests has it
        """Answer a request."""
        method, url = str(request.method), str(request.url)
        self._vault.faults.wait(self._vault.operation_of(method, url))
        body: Any = request.body or b""
        headers = {name.lower(): str(value) for name, value in request.headers.items()}
        try:
            status, answered, content = self._vault.answer(
                method, url, headers, body.encode() if isinstance(body, str) else body
            )
        except LostReplyError:
            raise requests.exceptions.ReadTimeout("lost", request=request) from None
        response = requests.Response()
        response.request, response.url, response.status_code = request, url, status
        response.headers.update(answered)
        response.raw = HTTPResponse(
            io.BytesIO(content), headers=answered, status=status, preload_content=False
        )
        return response

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
