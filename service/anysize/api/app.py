"""The app: routes, error shape and life span put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Security
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware

from anysize import __version__
from anysize.api import generate, health, variants
from anysize.api import metrics as metrics_route
from anysize.api.access import BEARER, Access
from anysize.api.answer import TokenTexts
from anysize.api.body_limit import BodyLimit
from anysize.api.docs import install_docs
from anysize.api.errors import install_error_handlers
from anysize.api.gauges import add_gauges
from anysize.api.metrics import Metrics
from anysize.api.observed import Observed
from anysize.api.openai import chat, completions, models
from anysize.api.openai.errors import PREFIX, OpenAIErrorOut
from anysize.api.page import install_page
from anysize.api.prompt import PromptEncoder
from anysize.api.readers import Readers
from anysize.api.record import REQUEST_ID
from anysize.api.schemas import ErrorOut
from anysize.api.state import ServiceState
from anysize.engine.engine import Engine, StepReport
from anysize.engine.grammars import Grammars
from anysize.engine.limits import Limits
from anysize.engine.stepper import StepModel
from anysize.errors import SettingsError
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.calibration import Calibration
from anysize.sizing.planner import Planner

if TYPE_CHECKING:
    from anysize.api.tracing import Tracing


def create_app(settings: Settings, family: Family, model: StepModel, calibration: Calibration | None = None) -> FastAPI:
    """The service for one family, whose sizes a model runs. Latency budgets need a calibration.

    The engine starts with the app and is drained when the app stops: requests that are in it are answered, up to
    `settings.drain_s`.
    """
    metrics = Metrics(family.ladder)
    limits = Limits.of(settings)
    planner = Planner(calibration.model(), limits, margin=calibration.margin()) if calibration else None

    def stepped(report: StepReport) -> None:
        metrics.stepped(report)
        if planner is not None:
            planner.saw(report.rows, model_ms=1e3 * report.duration_s, whole_ms=1e3 * report.whole_s)

    engine = Engine(
        family,
        model,
        limits,
        queue_timeout_s=settings.queue_timeout_s,
        stall_s=settings.stall_s,
        on_step=stepped,
    )
    add_gauges(metrics.registry, family, engine, model, limits)
    tracing = _tracing(settings, family)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        readers: Readers = app.state.service.readers
        readers.start()
        engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(engine.stop, within_s=settings.drain_s)
            readers.stop()
            if tracing is not None:
                await run_in_threadpool(tracing.close)

    app = FastAPI(
        title="Anysize",
        summary="Every size of a language model from one set of weights.",
        version=__version__,
        lifespan=life,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    encoder = PromptEncoder(family, max_chars=settings.max_prompt_chars, max_tokens=settings.max_tokens)
    app.state.service = ServiceState(
        settings,
        family,
        engine,
        metrics,
        encoder,
        TokenTexts(family.tokenizer),
        planner,
        Grammars(family),
        Access.of(settings),
    )
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(Observed, metrics=metrics.http, tracing=tracing)
    if settings.origins:  # outermost, so that pages can read errors too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID, "retry-after"],
        )
    install_error_handlers(app)
    guarded = [generate, variants] if settings.admin_port is not None else [generate, variants, metrics_route]
    for module in guarded:
        app.include_router(module.router, **_guard(settings, ErrorOut))
    for module in (completions, chat, models):
        app.include_router(module.router, **_guard(settings, OpenAIErrorOut))
    app.include_router(health.router)
    install_page(app)
    install_docs(app)
    document = app.openapi()
    for path, operations in document["paths"].items():
        if path.startswith(PREFIX):  # FastAPI documents an answer that is a 400 in OpenAI's shape here
            for operation in operations.values():
                operation["responses"].pop("422", None)
    return app


def _guard(settings: Settings, error: type[BaseModel]) -> dict[str, Any]:
    """What the schema says of routes that need a key."""
    if not settings.keys:
        return {}
    return {
        "dependencies": [Security(BEARER)],
        "responses": {401: {"model": error, "description": "no API key, or one that is not known"}},
    }


def _tracing(settings: Settings, family: Family) -> "Tracing | None":
    if settings.otlp_endpoint is None:
        return None
    try:
        from anysize.api.tracing import Tracing
    except ImportError as error:
        raise SettingsError(
            f"otlp_endpoint is set, but traces need OpenTelemetry ({error.name} is missing): pip install "
            "'anysize[tracing]'"
        ) from error
    return Tracing(settings.otlp_endpoint, family.name)
