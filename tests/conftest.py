"""No example of a property test has a time limit: a busy machine is no fault."""

from hypothesis import settings

settings.register_profile("without_deadline", settings(), deadline=None)
settings.load_profile("without_deadline")
