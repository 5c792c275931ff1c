"""Requests to a collector of a test, over HTTP without TLS.

Not with httpx2's own functions: each of them makes a client, and each client reads the
certificate authorities of the system, which takes 30 ms of CPU, for http:// too.
"""

from functools import partial

import httpx2

_OPTIONS = {"trust_env": False, "verify": False}

request = partial(httpx2.request, **_OPTIONS)
get = partial(httpx2.get, **_OPTIONS)
post = partial(httpx2.post, **_OPTIONS)
delete = partial(httpx2.delete, **_OPTIONS)
Client = partial(httpx2.Client, **_OPTIONS)
