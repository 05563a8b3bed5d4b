"""The Grafana dashboard as Grafana reads it: only the fields that a panel needs to be drawn, and no others."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "anysize.json"
ALERTS = REPOSITORY / "deploy" / "prometheus" / "alerts.yml"

Text = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Source(_Part):
    type: Literal["prometheus"]
    uid: Literal["anysize-prometheus"]


class Place(_Part):
    x: int = Field(ge=0, le=23)
    y: int = Field(ge=0)
    w: int = Field(ge=1, le=24)
    h: int = Field(ge=1)


class Target(_Part):
    refId: Text
    datasource: Source
    expr: Text
    legendFormat: Text


class Row(_Part):
    id: int
    type: Literal["row"]
    title: Text
    collapsed: Literal[False]
    gridPos: Place
    panels: list[Any] = Field(max_length=0)


class Panel(_Part):
    id: int
    type: Literal["timeseries", "stat"]
    title: Text
    description: Text
    datasource: Source
    gridPos: Place
    fieldConfig: dict[str, Any]
    options: dict[str, Any]
    targets: list[Target] = Field(min_length=1)


class Dashboard(_Part):
    uid: Text
    title: Text
    tags: list[str]
    schemaVersion: int = Field(ge=39)
    editable: bool
    refresh: Text
    time: dict[Literal["from", "to"], str]
    timezone: Text
    templating: dict[Literal["list"], list[dict[str, Any]]]
    annotations: dict[str, list[Any]]
    links: list[Any]
    panels: list[Row | Panel]

    @property
    def drawn(self) -> list[Panel]:
        """The panels that draw something."""
        return [panel for panel in self.panels if isinstance(panel, Panel)]


def dashboard() -> Dashboard:
    """The one in the repository."""
    return Dashboard.model_validate_json(DASHBOARD.read_bytes())


def asked(expr: str, *, within: str = "1m") -> str:
    """A panel's expression with Grafana's variables filled in."""
    return expr.replace("$__rate_interval", within).replace("$instance", ".*")
