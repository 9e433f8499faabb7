"""The options that say where a release's files are to be had."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FromOption = Annotated[
    str | None,  # not a path, which would lose a slash of an address
    typer.Option(
        "--from",
        metavar="DIR|URL",
        help="A folder or a web address that holds the files of the release SOURCE, as the publisher's server had "
        "them, or side by side. Default: RESNEXT_CONVERT_FROM of the environment.",
    ),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        metavar="DIR",
        help="Where fetched files are kept. Default: RESNEXT_CONVERT_CACHE of the environment, else the system's "
        "folder for caches.",
    ),
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Ask no server; use what is in --from or the cache.")]
