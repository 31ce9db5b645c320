"""StyleGAN: a growing generator that is driven by styles."""

from hyfree_ray.generators.adversarial.plan import grown
from hyfree_ray.generators.record import Generator
from hyfree_ray.generators.stylegan1.config import BUDGETS, StyleGan1Config
from hyfree_ray.generators.stylegan1.plan import StyleGan1Plan, derive

STYLEGAN1 = Generator(
    name="stylegan1",
    config=StyleGan1Config,
    plan=StyleGan1Plan,
    derive=derive,
    schedule=grown,
    backend=f"{__name__}.train:BACKEND",
    budgets=BUDGETS,
)
