#!/bin/sh
# Prepares OpenBao for the workers: a KEK that binds each wrap to its blob, and a token that may
# use this one key and no more. Running it again changes nothing.
# Wants BAO_ADDR, BAO_TOKEN (root) and WORKER_TOKEN (what the workers will present).
set -eu
key=blob-kek

bao secrets list -format=json | grep -q '"transit/"' || bao secrets enable transit
bao read "transit/keys/$key" >/dev/null 2>&1 ||
    bao write "transit/keys/$key" type=aes256-gcm96 derived=true >/dev/null

bao policy write rewrap-worker - <<POLICY
path "transit/encrypt/$key" { capabilities = ["update"] }
path "transit/decrypt/$key" { capabilities = ["update"] }
path "transit/rewrap/$key" { capabilities = ["update"] }
path "transit/keys/$key" { capabilities = ["read"] }
POLICY

# By stdin: a command line is in the list of processes.
has_token() { printf '{"token":"%s"}' "$WORKER_TOKEN" | bao write auth/token/lookup - >/dev/null 2>&1; }
has_token || printf '{"id":"%s","policies":["rewrap-worker"],"no_parent":true,"period":"768h"}' \
    "$WORKER_TOKEN" | bao write auth/token/create - >/dev/null
echo "transit/$key is ready"
