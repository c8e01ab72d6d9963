"""The relay that tutorials show: FastAPI and httpx, one route, chunks handed on as they come.

It numbers nothing, keeps nothing, resumes nothing. `uvicorn relay:app` with ORIGIN in the environment; it runs in an
environment of its own (`relay_venv.py`) and imports nothing of Subak.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, StreamingResponse

ORIGIN = os.environ["ORIGIN"]  # noqa: TID251 - a program of its own


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One client for all requests, without httpx' bound of 100 connections: it would make the 101st stream wait."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=ORIGIN, timeout=httpx.Timeout(5, read=None), limits=limits) as client:
        app.state.client = client
        yield


async def chat_stream(request: Request) -> StreamingResponse:
    """Hand on what the origin says."""

    async def chunks() -> AsyncIterator[bytes]:
        client: httpx.AsyncClient = request.app.state.client
        async with client.stream("GET", "/bali-zero/chat-stream", params=request.query_params) as answer:
            async for chunk in answer.aiter_raw():
                yield chunk

    return StreamingResponse(chunks(), media_type="text/event-stream")


async def ready() -> PlainTextResponse:
    """Say that it is up."""
    return PlainTextResponse("ok")


app = FastAPI(lifespan=lifespan)
app.add_api_route("/api/v2/bali-zero/chat-stream", chat_stream, methods=["GET"])
app.add_api_route("/readyz", ready, methods=["GET"])
