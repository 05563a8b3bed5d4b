"""The app: routes, error shape and life span put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from anysize import __version__
from anysize.api import generate, health, variants
from anysize.api import metrics as metrics_route
from anysize.api.answer import TokenTexts
from anysize.api.body_limit import BodyLimit
from anysize.api.errors import install_error_handlers
from anysize.api.metrics import Metrics
from anysize.api.page import install_page
from anysize.api.prompt import PromptEncoder
from anysize.api.state import ServiceState
from anysize.engine.engine import Engine, StepReport
from anysize.engine.limits import Limits
from anysize.engine.stepper import StepModel
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.calibration import Calibration
from anysize.sizing.planner import Planner


def create_app(settings: Settings, family: Family, model: StepModel, calibration: Calibration | None = None) -> FastAPI:
    """The service for one family, whose sizes a model runs. Latency budgets need a calibration.

    The engine starts with the app and is drained when the app stops: requests that are in it are answered, up to
    `settings.drain_s`.
    """
    metrics = Metrics(family.ladder)
    limits = Limits.of(settings)
    planner = Planner(calibration.model(), limits, margin=calibration.margin) if calibration else None

    def stepped(report: StepReport) -> None:
        metrics.stepped(report)
        if planner is not None:
            planner.saw(report.rows, 1e3 * report.whole_s)

    engine = Engine(
        family,
        model,
        limits,
        queue_timeout_s=settings.queue_timeout_s,
        stall_s=settings.stall_s,
        on_step=stepped,
    )
    metrics.watch(engine, model)

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await run_in_threadpool(engine.stop, within_s=settings.drain_s)

    app = FastAPI(
        title="Anysize",
        summary="Every size of a language model from one set of weights.",
        version=__version__,
        lifespan=life,
        redirect_slashes=False,
    )
    encoder = PromptEncoder(family, max_chars=settings.max_prompt_chars, max_tokens=settings.max_tokens)
    app.state.service = ServiceState(settings, family, engine, metrics, encoder, TokenTexts(family.tokenizer), planner)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    install_error_handlers(app)
    for module in (generate, variants, health, metrics_route):
        app.include_router(module.router)
    install_page(app)
    return app
