"""A certificate as one page to print: no script, and nothing from elsewhere."""

from html import escape
from typing import Any

from workers.plaintext import plain

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


def page(record: dict[str, Any], public_key: str, signature: str, sha256: str) -> str:
    """Return the page of a certificate.

    Args:
        record: the record that was signed.
        public_key: whose signature it is.
        signature: the signature, in base64.
        sha256: of the canonical record, which was signed; see `keywrap.certificate.digest`.
    """
    title = f"Certificate of campaign {record['campaign']}"
    keys: dict[str, int] = {}
    for line in record["keys_before"]:
        name = line["key_id"] or line["problem"]
        keys[name] = keys.get(name, 0) + line["blobs"]
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(record['kind'])} of {_text(record['store'])}</p>",
        f"<p><b>{_text(record['state'])}</b></p>",
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
                "SHA-256 of the canonical record": sha256,
                "public key (Ed25519)": public_key,
                "signature": signature,
            }
        ),
        _FOOT,
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _text(value: object) -> str:
    """Escape what is shown: of HTML, and what turns the direction of a line or is not seen."""
    return escape(plain(str(value)))


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
            f'<text x="0" y="{y + 16}">{_text(_short(name))}<title>{_text(name)}</title></text>'
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
        f"<tr><td>{_text(e['blob_id'])}</td><td>{_text(e['outcome'])}</td>"
        f"<td>{_text(e['reason_code'])}</td></tr>"
        for e in listed
    )
    more = record["more_exceptions"]
    note = f"<p>and {more['blobs']:,} more, SHA-256 {more['sha256']}</p>" if more else ""
    return f"<table>{rows}</table>{note}"


def _table(values: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{_text(name.replace('_', ' '))}</th><td>{_value(value)}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return _table(value) if value else "none"
    if isinstance(value, list):
        return "<br>".join(_value(one) for one in value) or "none"
    return "none" if value is None else _text(str(value))
