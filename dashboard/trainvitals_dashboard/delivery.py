"""What a browser loads first: the HTML document of each page, and Streamlit's scripts and styles.

Comes in: requests to the dashboard, before Streamlit sees them.
Goes out: the document with the address of the server in it, and compressed scripts and styles,
          both without the fonts of Streamlit for text; the icons that can be shown, in place of
          the font of all icons; all other requests go on to Streamlit.

Streamlit's document does not say where the server is. The browser tries `/run/_stcore/health` and
`/run/_stcore/host-config` for the page `/run`, gets 404 twice, and then tries `/_stcore/…`. The
global `__streamlit` of Streamlit's frontend names the address; hosts that embed an app set it.
Streamlit sends scripts uncompressed, for servers that have a reverse proxy which compresses.
Its document loads a font at once, and its styles name fonts for characters that the fonts of the
system lack. Of the latter, a zero-width character is enough to load 0.17 MB. mount.py sets the
fonts of the system, and the system has fonts for other characters.
The font of icons has 0.37 MB and 4,000 icons. dashboard/board/icons.py reduces it for one frontend
of Streamlit; with any other one, the whole font is sent.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from pathlib import Path
from typing import Final

import anyio.to_thread
import streamlit as st
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC: Final = Path(st.__file__).with_name("static")
ICONS: Final = Path(__file__).with_name("icons")
MAIN: Final = "fleet"
PAGES: Final = (
    MAIN,
    "run",
    "loss",
    "layers",
    "initialisation",
    "bias",
    "compare",
    "experiments",
    "alerts",
    "rule",
    "settings",
)
"""URL paths of the pages; MAIN is also at /."""
ADDRESS: Final = (
    "<script>window.__streamlit = "
    "{BACKEND_BASE_URL: new URL('.', window.location.href).href}</script>"
)
"""The address without the name of the page: it may have a prefix that a proxy removes."""
FONT_LINK: Final = re.compile(r'<link\s+rel="preload"[^>]*\bas="font"[^>]*>\s*')
"""What loads a font before it is used, in the document."""
FONT_FACE: Final = re.compile(r"@font-face\{[^}]*font-family:Source [^}]*\}")
"""The fonts for text and code, in the styles. The font of the icons stays."""
TYPES: Final = {".js": "text/javascript", ".css": "text/css"}
A_YEAR: Final = "public, immutable, max-age=31536000"
"""As Streamlit sends them: the names of the files contain a checksum of their content."""


def icon_font() -> Path:
    """Return Streamlit's font of icons. Raises StopIteration if there is none."""
    return next(STATIC.rglob("MaterialSymbols*.woff2"))


def frontend_key() -> str:
    """Return a key of Streamlit's frontend: the names of its files have checksums of the content.

    The key changes with any script, and so with any icon that a script can show.
    """
    names = sorted(file.name for file in STATIC.rglob("*") if file.suffix in (".js", ".woff2"))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def reduced_icons() -> dict[str, bytes]:
    """Return path of the request → the reduced font; empty where it is for another frontend."""
    reduced = ICONS / f"{frontend_key()}.woff2"
    if not reduced.exists():
        return {}
    return {f"/{icon_font().relative_to(STATIC).as_posix()}": reduced.read_bytes()}


def document() -> bytes:
    """Return Streamlit's HTML document with the address of the server, without a link to a font.

    The script is the first element of the head, before Streamlit's own scripts.
    """
    page = FONT_LINK.sub("", (STATIC / "index.html").read_text(encoding="utf-8"))
    return page.replace("<head>", f"<head>{ADDRESS}", 1).encode()


class Delivery:
    """ASGI middleware: answers requests for documents, scripts and styles."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._document = document()
        self._documents = {"/", *(f"/{page}" for page in PAGES)}
        self._files = {
            f"/{file.relative_to(STATIC).as_posix()}": file
            for file in STATIC.rglob("*")
            if file.suffix in TYPES
        }
        self._compressed: dict[str, bytes] = {}
        self._icons = reduced_icons()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        response = await self._response(scope) if scope["type"] == "http" else None
        await (response or self._app)(scope, receive, send)

    async def _response(self, scope: Scope) -> Response | None:
        if scope["method"] not in ("GET", "HEAD"):
            return None
        path = scope["path"]
        if path in self._documents:
            headers = {"Cache-Control": "no-cache"}
            return Response(self._document, headers=headers, media_type="text/html")
        if path in self._icons:
            headers = {"Cache-Control": A_YEAR}
            return Response(self._icons[path], headers=headers, media_type="font/woff2")
        file = self._files.get(path)
        if file is None or "gzip" not in Headers(scope=scope).get("accept-encoding", ""):
            return None
        if path not in self._compressed:
            self._compressed[path] = await anyio.to_thread.run_sync(_compressed, file)
        headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding", "Cache-Control": A_YEAR}
        return Response(self._compressed[path], headers=headers, media_type=TYPES[file.suffix])


def _compressed(file: Path) -> bytes:
    content = file.read_bytes()
    if file.suffix == ".css":
        content = FONT_FACE.sub("", content.decode()).encode()
    return gzip.compress(content, 6, mtime=0)
