#!/bin/sh
# Runs before the collector: brings the database to this version's tables, and makes a token for
# Prometheus that may only read. Again and again changes nothing.
set -eu
umask 077
trainvitals db upgrade
token=${TRAINVITALS_TOKEN_FILE%/*}/prometheus_token
if [ ! -s "$token" ]; then
    # Not straight into the file: what fails half-way must not look like a token.
    trainvitals token create read --label prometheus > "$token.new"
    mv "$token.new" "$token"
fi
