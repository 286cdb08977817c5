"""For every test."""

from hypothesis import settings

# A machine that is busy for a moment is no failure of an example.
settings.register_profile("kappa", deadline=None)
settings.load_profile("kappa")
