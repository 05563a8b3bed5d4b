"""The baselines' names."""

from typing import Literal

Method = Literal["naive", "shortgpt_once", "shortgpt_rescored", "laco_equation", "laco_official", "untrained"]
