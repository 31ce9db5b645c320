"""StyleGAN2: the generator of HyFree-S3."""

from hyfree_ray.generators.record import Generator
from hyfree_ray.generators.stylegan2.config import BUDGETS, StyleGan2Config
from hyfree_ray.generators.stylegan2.plan import StyleGan2Plan, derive

STYLEGAN2 = Generator(
    name="stylegan2",
    config=StyleGan2Config,
    plan=StyleGan2Plan,
    derive=derive,
    backend=f"{__name__}.train:BACKEND",
    budgets=BUDGETS,
    conditional=True,
)
