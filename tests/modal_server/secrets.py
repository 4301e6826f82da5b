"""Secrets: named ones that a test sets up, and anonymous ones that an app brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

from tests.modal_server.records import new_id

if TYPE_CHECKING:
    from tests.modal_server.containers import Container
    from tests.modal_server.state import State


class Secrets:
    def __init__(self, state: State) -> None:
        self._state = state

    async def SecretGetOrCreate(
        self, request: api_pb2.SecretGetOrCreateRequest, _: Container | None
    ) -> api_pb2.SecretGetOrCreateResponse:
        name = request.deployment_name
        if not name:
            secret_id = new_id("st")
            self._state.secrets[secret_id] = dict(request.env_dict)
        else:
            secret_id = f"st-{name}"
            if secret_id not in self._state.secrets:
                raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' not found")
        values = self._state.secrets[secret_id]
        absent = [key for key in request.required_keys if key not in values]
        if absent:
            raise GRPCError(Status.NOT_FOUND, f"Secret '{name}' is missing key(s): {', '.join(absent)}")
        metadata = api_pb2.SecretMetadata(name=name, keys=sorted(values))
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret_id, metadata=metadata)
