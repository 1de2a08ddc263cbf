"""A small student learns from a teacher's outputs and the labels (Hinton et al. 2015, arXiv:1503.02531)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from hfstrat.spec import Spec
from hfstrat.strategies.base import HeadedSpec, Setting, Sizes, body_defaults, epochs_for, head_first, head_setting
from hfstrat.strategies.plan import Anatomy, Body, Distillation, Fit, Plan


class StudentSpec(Spec):
    """What the student starts from."""

    weights: Literal["teacher", "base", "random"] = "teacher"
    """teacher: the teacher's own blocks; base: those of `model.base`, which are not trained on the task yet; random: in
    the shape of `model.config`, or of the base."""
    every: Annotated[int, Field(ge=1)] = 2
    """Keep every so many-th block, the first and the last among them; 1 keeps all."""


class Distill(HeadedSpec):
    """Soft targets from a finished model, for a smaller one."""

    kind: Literal["distill"] = "distill"

    teacher: str
    """A run, a folder or a Hub id of a classifier with the same labels; in a comparison also `arm:NAME`, one of its
    arms."""

    student: StudentSpec = StudentSpec()
    """What the student starts from."""

    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Both models' logits are divided by it, so that small probabilities count."""

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Weight of the teacher's outputs, the rest is the labels'; 0 trains the same student without its teacher."""

    unlabelled: str | None = None
    """A file of more texts like those of the task, under the same column name; the teacher labels them."""

    def body(self) -> Body:
        """The student."""
        return replace(
            super().body(),
            weights="random" if self.student.weights == "random" else "pretrained",
            origin=self.teacher if self.student.weights == "teacher" else None,
            every=self.student.every,
        )

    def plan(self, anatomy: Anatomy, updates: int) -> Plan:
        """Solve the output layer where it is new, then fit everything to teacher and labels."""
        random = self.student.weights == "random"
        first = () if random and self.head_init == "auto" else head_first(self.head_init, anatomy)
        teacher = Distillation(self.teacher, self.temperature, self.alpha, self.unlabelled) if self.alpha else None
        return Plan(self.body(), None, (*first, Fit("fit", ("*",))), teacher)

    def defaults(self, sizes: Sizes) -> Mapping[str, Setting]:
        """Soft targets bear long schedules (Beyer et al. 2022, arXiv:2106.05237)."""
        random = self.student.weights == "random"
        lr = Setting(5e-4 if sizes.body <= 50e6 else 3e-4, "random weights take a high learning rate")
        return {
            **body_defaults(sizes, "distillation into a student"),
            **({"train.lr": lr} if random else {}),
            "strategy.head_init": Setting("random", "random features are not worth a probe")
            if random
            else head_setting(sizes),
            "train.epochs": epochs_for(sizes, updates=2000, least=5, most=30),
        }
