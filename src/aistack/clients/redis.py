"""Redis (or Valkey) as a cache. Raises Unavailable when it is away: callers go on without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from aistack.clients.resilience import Breaker, Dependency
from aistack.config import RedisConfig
from aistack.service.private_files import read_secret


class Redis:
    """Byte values under byte or text keys; every call is short and guarded."""

    def __init__(self, config: RedisConfig) -> None:
        # Typed as Any: redis-py's annotations know neither bytes-only answers nor awaitables.
        self._client: Any = redis.asyncio.Redis.from_url(
            config.url,
            # One in the address wins, and is a secret in a readable file.
            password=config.password_file
            and read_secret("redis.password_file", config.password_file),
            socket_timeout=config.timeout_seconds,
            socket_connect_timeout=config.timeout_seconds,
            decode_responses=False,
            retry=None,
        )
        self.dependency = Dependency(
            "redis",
            timeout=config.timeout_seconds,
            transient=(RedisError, OSError),
            concurrency=64,
            queue_seconds=config.timeout_seconds,
            breaker=Breaker("redis", failures=3, window=10.0, cooldown=2.0),
        )

    async def get(self, key: str | bytes) -> bytes | None:
        """The value, or None."""
        found: bytes | None = await self.dependency.call("get", lambda: self._client.get(key))
        return found

    async def mget(self, keys: Sequence[str | bytes]) -> list[bytes | None]:
        """The values in the order of `keys`."""
        if not keys:
            return []
        found: list[bytes | None] = await self.dependency.call(
            "mget", lambda: self._client.mget(keys)
        )
        return found

    async def set(self, key: str | bytes, value: bytes, *, seconds: int) -> None:
        """Stores one value for `seconds`."""
        await self.dependency.call("set", lambda: self._client.set(key, value, ex=seconds))

    async def mset(self, values: Mapping[str | bytes, bytes], *, seconds: int) -> None:
        """Stores many values in one round trip."""
        if not values:
            return

        async def send() -> None:
            async with self._client.pipeline(transaction=False) as pipe:
                for key, value in values.items():
                    pipe.set(key, value, ex=seconds)
                await pipe.execute()

        await self.dependency.call("mset", send)

    async def delete(self, *keys: str | bytes) -> None:
        """Removes keys; unknown ones are no error."""
        await self.dependency.call("delete", lambda: self._client.delete(*keys))

    async def probe(self) -> None:
        """Raises when it does not answer."""
        await self.dependency.call("ping", lambda: self._client.ping())

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()
