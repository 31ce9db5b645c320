"""StyleGAN3-T: what it draws moves as one, by filters that let no pixel grid through."""

from hyfree_ray.generators.record import Generator
from hyfree_ray.generators.stylegan3.config import BUDGETS, StyleGan3Config
from hyfree_ray.generators.stylegan3.plan import StyleGan3Plan, derive

STYLEGAN3 = Generator(
    name="stylegan3",
    config=StyleGan3Config,
    plan=StyleGan3Plan,
    derive=derive,
    backend=f"{__name__}.train:BACKEND",
    budgets=BUDGETS,
)
