"""Writes `docs/openapi/<service>.json` from the code (`make openapi`); a test compares them."""

import asyncio
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from pingfeed.settings import load

FOLDER: Final = Path(__file__).parents[1] / "docs" / "openapi"
SERVICES: Final = ("ingest", "feed")


def document(service: str) -> bytes:
    """The OpenAPI document of a service, built as it is served."""
    with tempfile.TemporaryDirectory() as home:
        described = asyncio.run(_described(service, home))
    return msgspec.json.format(msgspec.json.encode(described), indent=2) + b"\n"


async def _described(service: str, home: str) -> dict[str, Any]:
    # As a client finds a service that is not on its own machine: a credential is asked for.
    settings = load({"PINGFEED_HOME": home, "PINGFEED_AUTH": "api_key", "PINGFEED_API_KEY_HASHES": "0" * 64})
    services = importlib.import_module(f"{service}_api.wiring").build(settings)
    app = importlib.import_module(f"{service}_api.app").create_app(services, settings)
    async with app.router.lifespan_context(app):
        described: dict[str, Any] = app.openapi()
    return described


def main() -> int:
    """Write every document."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for service in SERVICES:
        (FOLDER / f"{service}.json").write_bytes(document(service))
    return 0


if __name__ == "__main__":
    sys.exit(main())
