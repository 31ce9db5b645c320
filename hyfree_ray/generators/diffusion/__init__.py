"""Denoising diffusion (DDPM): a noisy image is made less noisy step by step."""

from hyfree_ray.generators.diffusion.config import BUDGETS, DiffusionConfig
from hyfree_ray.generators.diffusion.plan import DiffusionPlan, derive, schedule
from hyfree_ray.generators.record import Generator

DIFFUSION = Generator(
    name="diffusion",
    config=DiffusionConfig,
    plan=DiffusionPlan,
    derive=derive,
    schedule=schedule,
    backend=f"{__name__}.train:BACKEND",
    budgets=BUDGETS,
)
