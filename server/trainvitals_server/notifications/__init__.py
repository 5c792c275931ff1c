"""Send messages about open findings, lost runs and failed runs to people and machines.

Comes in: open findings and run states, from the store; channels, routes and silences, from the
          operator's settings.
Goes out: messages, through Apprise or to signed webhooks.
Promise:  at most one message for each run, rule and cooldown, and one when it is resolved, however
          many findings there are and however many collectors share the database; no ingest request
          and no diagnosis waits for a delivery; no address and no key is logged.
Start at `notifier.Notifier`; `plan` decides what is sent.
"""
