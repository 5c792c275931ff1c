"""The HTTP API: the structs of all answers, a client, and the text of numbers and evidence.

Comes in: nothing. Goes out: `schema` (msgspec structs), `wording` (numbers and evidence as text),
          `client` (the HTTP client of the command line and the dashboard).
Promise:  one definition of a run, a finding and an evidence item; the server encodes these structs,
          and every client decodes them. Imports msgspec and the standard library only.
Start at `schema.Finding`.
"""
