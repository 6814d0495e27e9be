#!/bin/sh
# Runs SeaweedFS with one S3 identity and one bucket, `blobs`.
# Wants AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, which its clients present.
set -eu
: "${AWS_ACCESS_KEY_ID:?set it in .env}" "${AWS_SECRET_ACCESS_KEY:?set it in .env}"

umask 077
cat > /tmp/s3.json <<IDENTITY
{"identities": [{"name": "rewrap",
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}],
  "actions": ["Admin", "Read", "Write", "List"]}]}
IDENTITY

# A bucket is made by whoever is there first; making it again is refused and does no harm.
(
    until echo "s3.bucket.create -name blobs" | weed shell 2>/dev/null | grep -q "blobs\|exists"; do
        sleep 1
    done
) &
exec weed server -dir=/data -s3 -s3.config=/tmp/s3.json
