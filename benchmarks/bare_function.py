"""The least that a feed function could import: its libraries, three open AWS clients, and the model (`BARE_MODEL`)."""

import asyncio
import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Any

import aiobotocore.session
import msgspec  # noqa: F401
import numpy as np  # noqa: F401
from fastapi import FastAPI
from mangum import Mangum

LOOP = asyncio.new_event_loop()
asyncio.set_event_loop(LOOP)


async def _open() -> list[Any]:
    session = aiobotocore.session.get_session()
    return [await session.create_client(name).__aenter__() for name in ("firehose", "dynamodb", "s3")]


def _model() -> ctypes.c_void_p:
    found = importlib.util.find_spec("lightgbm")
    assert found is not None
    assert found.origin is not None
    library = ctypes.CDLL(str(Path(found.origin).parent / "lib" / "lib_lightgbm.so"))
    booster, trees = ctypes.c_void_p(), ctypes.c_int()
    name = os.environ["BARE_MODEL"].encode()
    assert library.LGBM_BoosterCreateFromModelfile(name, ctypes.byref(trees), ctypes.byref(booster)) == 0
    return booster


CLIENTS, MODEL = LOOP.run_until_complete(_open()), _model()
app = FastAPI()


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


handler = Mangum(app, lifespan="off")
