"""Makes one file of the agent's modules: a zip that `python3 FILE` runs. The same sources give the same bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

PACKAGE = "longfuse_node"
_LEFT_OUT = frozenset({"pack.py", "user_data.py"})  # of the launching side
_START = f"import sys\nfrom {PACKAGE}.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"


def agent_bytes() -> bytes:
    """The archive, with fixed times and order, so that its sha256 names it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", _START.encode())
        for path in sorted(Path(__file__).parent.glob("*.py")):
            if path.name not in _LEFT_OUT:
                _add(archive, f"{PACKAGE}/{path.name}", path.read_bytes())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)
