"""The colours of both themes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Palette:
    """Colours that are readable on one background."""

    line: tuple[str, ...]
    severity: dict[str, str]
    muted: str
    gap: str
    background: str
    sequential: tuple[str, ...]
    """Small to large."""
    diverging: tuple[str, ...]
    """Negative, zero, positive."""


LIGHT = Palette(
    line=("#0f766e", "#c2410c", "#4f46e5", "#a16207", "#be185d", "#0369a1"),
    severity={"error": "#c81e1e", "warning": "#b45309", "info": "#1d4ed8", "healthy": "#15803d"},
    muted="#64748b",
    gap="rgba(100,116,139,0.16)",
    background="#ffffff",
    sequential=("#f1f5f4", "#c5e5d9", "#7cc5b8", "#35939a", "#23607f", "#20305a", "#180f2b"),
    diverging=("#9a3412", "#f3b48b", "#f4f4f2", "#8cc4bd", "#0f5f59"),
)
DARK = Palette(
    line=("#2dd4bf", "#fb923c", "#a5b4fc", "#facc15", "#f472b6", "#38bdf8"),
    severity={"error": "#f87171", "warning": "#fbbf24", "info": "#60a5fa", "healthy": "#4ade80"},
    muted="#94a3b8",
    gap="rgba(148,163,184,0.18)",
    background="#0f1519",
    sequential=("#16212b", "#1b3f58", "#1d6474", "#2f8f86", "#63b98b", "#b5dc8f", "#fbf8c0"),
    diverging=("#fdba74", "#9a4a1d", "#1b242b", "#17746b", "#5eead4"),
)


def palette(dark: bool) -> Palette:
    """Return the colours for a dark or a light page."""
    return DARK if dark else LIGHT
