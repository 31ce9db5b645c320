"""Rectified flow: credible after minutes on a CPU."""

from hyfree_ray.generators.flow.config import BUDGETS, FlowConfig
from hyfree_ray.generators.flow.plan import FlowPlan, derive, schedule
from hyfree_ray.generators.record import Generator

FLOW = Generator(
    name="flow",
    config=FlowConfig,
    plan=FlowPlan,
    derive=derive,
    schedule=schedule,
    backend=f"{__name__}.train:BACKEND",
    budgets=BUDGETS,
    conditional=True,
)
