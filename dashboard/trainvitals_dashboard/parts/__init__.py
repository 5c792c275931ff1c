"""What several views show: session, header, range, verdicts."""
