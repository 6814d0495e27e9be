"""A certificate as one page to print: no script, and nothing from elsewhere."""

import hashlib
from html import escape
from typing import Any

from keywrap.certificate import canonical

_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;max-width:50em;margin:2em auto;padding:0 1em;color:#111}
table{border-collapse:collapse;width:100%;margin:.5em 0 1.5em}
th,td{text-align:left;vertical-align:top;padding:.25em .6em;border-bottom:1px solid #ddd}
th{width:16em;font-weight:600}td{overflow-wrap:anywhere}
svg text{font:12px system-ui,sans-serif}code{font-size:12px;overflow-wrap:anywhere}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}}
"""

_FOOT = (
    "<p>This page is a reading of the certificate. What is signed is its JSON: "
    "<code>rewrap certificate-verify FILE --public-key KEY</code></p>"
)

_BAR, _ROW, _LABEL = 420, 24, 200


def page(record: dict[str, Any], public_key: str, signature: str) -> str:
    """Return the page of a certificate.

    Args:
        record: the record that was signed.
        public_key: whose signature it is.
        signature: the signature, in base64.
    """
    title = f"Certificate of campaign {record['campaign']}"
    keys = {(k["key_id"] or k["problem"]): k["blobs"] for k in record["keys_before"]}
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(record['kind'])} of {escape(record['store'])}</p>",
        f"<p><b>{escape(record['state'])}</b></p>",
        "<h2>What became of the blobs</h2>",
        _bars({name: n for name, n in record["counts"].items() if n}),
        "<h2>What wrapped them before</h2>",
        _bars(keys),
        "<h2>Exceptions</h2>",
        _exceptions(record),
        "<h2>The record</h2>",
        _table({k: v for k, v in record.items() if k not in {"exceptions", "keys_before"}}),
        "<h2>Signature</h2>",
        _table(
            {
                "public key (Ed25519)": public_key,
                "signature": signature,
                "SHA-256 of the canonical record": hashlib.sha256(canonical(record)).hexdigest(),
            }
        ),
        _FOOT,
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _bars(counts: dict[str, int]) -> str:
    """Draw counts as horizontal bars (SVG 1.1)."""
    if not counts:
        return "<p>none</p>"
    most = max(*counts.values(), 1)
    rows = []
    for number, (name, count) in enumerate(counts.items()):
        y = number * _ROW
        width = max(1, _BAR * count // most)
        rows.append(
            f'<text x="0" y="{y + 16}">{escape(_short(name))}<title>{escape(name)}</title></text>'
            f'<rect x="{_LABEL}" y="{y + 4}" width="{width}" height="{_ROW - 8}" fill="#3b6ea5"/>'
            f'<text x="{_LABEL + width + 6}" y="{y + 16}">{count:,}</text>'
        )
    height, width = len(counts) * _ROW, _LABEL + _BAR + 90
    return f'<svg viewBox="0 0 {width} {height}" width="100%" role="img">{"".join(rows)}</svg>'


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"…{name[-29:]}"  # noqa: PLR2004 - what fits


def _exceptions(record: dict[str, Any]) -> str:
    listed = record["exceptions"]
    if not listed:
        return "<p>none</p>"
    rows = "".join(
        f"<tr><td>{escape(e['blob_id'])}</td><td>{escape(e['outcome'])}</td>"
        f"<td>{escape(e['reason_code'])}</td></tr>"
        for e in listed
    )
    more = record["more_exceptions"]
    note = f"<p>and {more['blobs']:,} more, SHA-256 {more['sha256']}</p>" if more else ""
    return f"<table>{rows}</table>{note}"


def _table(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{_value(value)}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return _table(value) if value else "none"
    if isinstance(value, list):
        return "<br>".join(_value(one) for one in value) or "none"
    return "none" if value is None else escape(str(value))
