"""The frame and the style sheet of the HTML reports: light or dark by the browser's setting."""

from __future__ import annotations

from html import escape

STYLE = """
:root{color-scheme:light dark;--text:#17212b;--dim:#55636f;--back:#fff;--panel:#f3f6f6;
--edge:#dfe6e6;--error:#c81e1e;--warning:#9a4a06;--info:#1d4ed8;--good:#15803d;
--c0:#0f766e;--c1:#c2410c;--c2:#4f46e5;--c3:#a16207;--c4:#be185d;--c5:#0369a1}
@media (prefers-color-scheme:dark){:root{--text:#e6edf1;--dim:#9fb0bd;--back:#0f1519;
--panel:#18212a;--edge:#2a3742;--error:#f87171;--warning:#fbbf24;--info:#60a5fa;--good:#4ade80;
--c0:#2dd4bf;--c1:#fb923c;--c2:#a5b4fc;--c3:#facc15;--c4:#f472b6;--c5:#38bdf8}}
*{box-sizing:border-box}
body{margin:0 auto;padding:24px 16px 48px;max-width:1080px;background:var(--back);
color:var(--text);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.35rem;margin:0 0 16px}h2{font-size:1.1rem;margin:32px 0 12px}
h3{font-size:1rem;margin:0 0 8px}p,ul{margin:8px 0}ul{padding-left:20px}
.dim,dt,figcaption{color:var(--dim)}
.card{background:var(--panel);border:1px solid var(--edge);border-left:5px solid var(--edge);
border-radius:8px;padding:16px;margin:0 0 16px}
.card.error{border-left-color:var(--error)}.card.warning{border-left-color:var(--warning)}
.card.info{border-left-color:var(--info)}.card.good{border-left-color:var(--good)}
.word{font-weight:700}.error>.word,b.error{color:var(--error)}
.warning>.word,b.warning{color:var(--warning)}.info>.word,b.info{color:var(--info)}
.good>.word{color:var(--good)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 16px;margin:12px 0 0}dd{margin:0}
table{border-collapse:collapse;width:100%;font-size:.93rem}
th,td{text-align:left;vertical-align:top;padding:5px 12px 5px 0;border-top:1px solid var(--edge)}
th{font-weight:600;color:var(--dim);border-top:0}td.n{font-variant-numeric:tabular-nums;
white-space:nowrap}
pre{background:var(--back);border:1px solid var(--edge);border-radius:6px;padding:10px 12px;
overflow-x:auto;font:14px/1.5 ui-monospace,monospace;user-select:all}
code{font-family:ui-monospace,monospace;font-size:.92em}
details{margin:8px 0}summary{cursor:pointer}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:16px}
figure{margin:0;background:var(--panel);border:1px solid var(--edge);border-radius:8px;
padding:10px 12px}
.card figure{background:none;border:0;padding:0;max-width:520px;margin:12px 0}
figcaption{font-size:.9rem}figcaption span{display:inline-block}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--text);font:11px system-ui,sans-serif}svg text.dim{fill:var(--dim)}
svg text.error{fill:var(--error)}
.grid{stroke:var(--edge)}.axis{stroke:var(--dim);fill:none}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.marker{stroke-width:1.4;stroke-dasharray:4 3}.marker.error{stroke:var(--error)}
.marker.warning{stroke:var(--warning)}.marker.info{stroke:var(--info)}
.key{display:inline-block;width:14px;height:3px;margin:0 5px 3px 12px}
.key.c0{background:var(--c0)}.key.c1{background:var(--c1)}.key.c2{background:var(--c2)}
.key.c3{background:var(--c3)}.key.c4{background:var(--c4)}.key.c5{background:var(--c5)}
@media (max-width:600px){td,th{padding-right:8px}.evidence thead{display:none}
.evidence td{display:block;border:0;padding:0}.evidence tr{display:block;padding:6px 0;
border-top:1px solid var(--edge)}.evidence td.n{font-weight:600}}
@media print{body{max-width:none}.card,figure{break-inside:avoid}}
"""


def document(title: str, body: str) -> str:
    """Return a page that loads nothing and runs no script; `title` is escaped, `body` is HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)} · trainvitals</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
