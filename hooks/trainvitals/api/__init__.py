"""The HTTP API once: what every answer looks like, how to read it, and how to word it.

Comes in: nothing. Goes out: `schema` (msgspec structs), `wording` (numbers and evidence as text),
          `client` (the HTTP client of the command line and the dashboard).
Promise:  one definition of a run, a finding, an evidence item; the server encodes these structs,
          every reader decodes the same ones. Imports msgspec and the standard library only.
Start at `schema.Finding`.
"""
