#!/bin/sh
# Runs before the collector starts. Upgrades the database schema to this version and creates a
# read-only token for Prometheus. Running it again changes nothing. A SQLite database that a collector
# of an older version uses is not upgraded: stop the collector first (docker compose stop collector).
set -eu
umask 077
trainvitals db upgrade
token=${TRAINVITALS_TOKEN_FILE%/*}/prometheus_token
if [ ! -s "$token" ]; then
    # Write to a temporary file first: an incomplete file must not be used as a token.
    trainvitals token create read --label prometheus > "$token.new"
    mv "$token.new" "$token"
fi
