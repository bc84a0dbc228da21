"""The precision that an engine is asked for, refused where it would not be followed."""

from __future__ import annotations

import jax

from macejax.config import ConfigError, Precision
from macejax.potential import SiteEnergy


def policy_of(dtype: str | Precision, own: SiteEnergy | None) -> Precision:
    """The policy of a name.

    Args:
      dtype: a policy, or its name.
      own: function of the caller's that takes the place of the model's, if there is one.

    Raises:
      ConfigError: there is none of that name, this device would not follow it, or `own` would not.
    """
    policy = Precision.of(dtype)
    policy.require(jax.default_backend())
    if own is not None and policy.products != "highest":
        raise ConfigError("a site_energy of your own multiplies as it does: let it compute in tf32 or bf16 itself, and give float32.")
    return policy


def device_policy(dtype: str | Precision, own: SiteEnergy | None) -> Precision:
    """As `policy_of`, for an engine whose positions are float64 in any case.

    Raises:
      ConfigError: besides, geometry in float32.
    """
    policy = policy_of(dtype, own)
    if policy.geometry == "float32":
        raise ConfigError("positions on the device are float64, and so are differences of them: leave geometry at float64.")
    return policy
