"""`anysize calibrate`: measure, keep, show."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anysize.bench.plot import draw
from anysize.bench.show import show
from anysize.commands.serve import load_family, load_kernels
from anysize.console import progress_bar, say
from anysize.engine.limits import Limits
from anysize.errors import CalibrationError
from anysize.family.family import Family
from anysize.settings import Settings
from anysize.sizing.calibrate import calibration_steps, measure, shape_of
from anysize.sizing.calibration import Calibration, Key, read_calibration, required_calibration
from anysize.sizing.planner import Planner


def show_calibration(settings: Settings, *, within_s: float, is_stored: bool, plot: Path | None, as_json: bool) -> None:
    """Measure this machine and keep the result, or show what is kept.

    Args:
        settings: of the service that is to use it.
        within_s: how long measuring may take.
        is_stored: show what is kept and measure nothing.
        plot: a file to draw into.
        as_json: print JSON instead of a table.

    Raises:
        CalibrationError: nothing is kept, or what is cannot be used.
        SettingsError: the file cannot be drawn.
    """
    kernels = load_kernels(settings, say)
    family = load_family(settings)
    key = Key.of(settings, compiled=kernels is not None)
    if is_stored:
        found = required_calibration(key, family)
    else:
        with progress_bar("measuring steps") as on_progress:
            steps = calibration_steps(family)
            measured = measure(family, steps, kernels=kernels, within_s=within_s, on_progress=on_progress)
        found = Calibration.fit(key, shape_of(family), measured)
        say(f"kept in {found.write()}")
    report = _report(found)
    if plot is not None:
        draw(report, plot)
    if not as_json:
        del report["steps"]
    show(report, as_json=as_json)


def stored_planner(settings: Settings, family: Family, say: Callable[[str], None]) -> Planner | None:
    """A planner by what is kept for these settings; without compiled kernels only where nothing is kept for them.

    Args:
        settings: of the service.
        family: loaded with them.
        say: told where a file is there that cannot be used.
    """
    ways = [True, False] if settings.compile is None else [settings.compile]
    try:
        kept = (read_calibration(Key.of(settings, compiled=way), family) for way in ways)
        found = next((one for one in kept if one is not None), None)
    except CalibrationError as error:
        say(str(error))
        return None
    return Planner(found.model(), Limits.of(settings), margin=found.margin()) if found else None


def _report(found: Calibration) -> dict[str, Any]:
    errors = np.abs(found.relative_errors())
    groups: dict[str, list[float]] = {}
    for step, error in zip(found.steps, errors, strict=True):
        most = max(row.tokens for row in step.rows)
        name = f"{len(step.rows)} rows" if most == 1 else f"a prompt of {most} tokens"
        groups.setdefault(name, []).append(float(error))
    return {
        "benchmark": "calibration",
        "file": str(found.key.path),
        **found.key.model_dump(exclude={"family_sha256"}),
        "measured_steps": len(found.steps),
        "error_median": float(np.median(errors)),
        "error_p95": float(np.quantile(errors, 0.95)),
        "step_margin": found.step_margin,
        "lasting_margin": found.lasting_margin,
        "error_median_of": {name: float(np.median(group)) for name, group in groups.items()},
        "coefficients_ms": found.coefficients,
        "steps": [
            {
                "kind": "decode" if all(row.tokens == 1 for row in step.rows) else "prompt",
                "rows": len(step.rows),
                "tokens": sum(row.tokens for row in step.rows),
                "measured_ms": step.measured_ms,
                "predicted_ms": step.predicted_ms,
            }
            for step in found.steps
        ],
    }
