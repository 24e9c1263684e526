"""Lets in who has a key or a token, and says who it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from slipstream.gateway.caller import NOBODY, Caller, current_caller
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import exchange_in
from slipstream.gateway.refusal import refuse

Finder = Callable[[str], Caller | None]


class Authentication:
    """Answers 401 to a request without a key or token that one of `finders` knows."""

    def __init__(self, app: ASGIApp, *, finders: Sequence[Finder], public_paths: Sequence[str]) -> None:
        self._app = app
        self._finders = finders
        self._public_paths = frozenset(path for path in public_paths if not path.endswith("*"))
        self._public_prefixes = tuple(path[:-1] for path in public_paths if path.endswith("*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        try:
            caller = NOBODY if self._is_public(scope["path"]) else self._caller(scope)
        except ApiError as error:
            exchange_in(scope).caller = NOBODY
            await refuse(scope, receive, send, error)
            return
        exchange_in(scope).caller = caller
        token = current_caller.set(caller)
        try:
            await self._app(scope, receive, send)
        finally:
            current_caller.reset(token)

    def _is_public(self, path: str) -> bool:
        return path in self._public_paths or (
            bool(self._public_prefixes) and path.startswith(self._public_prefixes) and ".." not in path
        )

    def _caller(self, scope: Scope) -> Caller:
        text = _credential(scope)
        caller = next((caller for find in self._finders if (caller := find(text)) is not None), None)
        if caller is None:
            raise _refusal("the API key or token is not valid here", code="invalid_api_key")
        return caller


def _credential(scope: Scope) -> str:
    bearers: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    keys: list[bytes] = [value for name, value in scope["headers"] if name == b"x-api-key"]
    if len(bearers) > 1 or len(keys) > 1:
        raise _refusal("there is more than one API key", code="invalid_api_key")
    if bearers:
        scheme, _, text = bearers[0].partition(b" ")
        if scheme.lower() != b"bearer" or not text.strip():
            raise _refusal("authorization: expected `Bearer KEY`", code="invalid_api_key")
        return text.strip().decode("latin-1")
    if keys:
        return keys[0].strip().decode("latin-1")
    raise _refusal("an API key is missing: send `Authorization: Bearer KEY`, or `x-api-key: KEY`", code=None)


def _refusal(message: str, *, code: str | None) -> ApiError:
    return ApiError(401, message, code=code, headers={"www-authenticate": "Bearer"})
