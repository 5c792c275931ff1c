"""Import rich without a change of Python's global random number generator.

rich.style draws 24 bits from that generator when it is imported, so the first card or status line
would change the random numbers of a training. Imported first by `trainvitals.report`.
"""

import random

_state = random.getstate()
try:
    import rich.style  # noqa: F401 - for its effect: a later import of rich draws nothing
finally:
    random.setstate(_state)
