"""Progressive GAN: both networks grow with the images."""

from hyfree_ray.generators.adversarial.plan import grown
from hyfree_ray.generators.progan.config import BUDGETS, ProGanConfig
from hyfree_ray.generators.progan.plan import ProGanPlan, derive
from hyfree_ray.generators.record import Generator

PROGAN = Generator(
    name="progan",
    config=ProGanConfig,
    plan=ProGanPlan,
    derive=derive,
    schedule=grown,
    backend=f"{__name__}.train:BACKEND",
    budgets=BUDGETS,
)
