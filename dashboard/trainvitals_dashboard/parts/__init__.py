"""Elements that several views share: session, header, range, verdicts."""
