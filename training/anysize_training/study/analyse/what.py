"""The analyses' names."""

from typing import Literal

What = Literal["teacher_layers", "student_layers", "last_layer", "flops"]
