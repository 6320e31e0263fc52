"""SVG pictures become part of the page, so that they take the colours of the theme that the reader has chosen."""

import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

_STYLE = re.compile(r"<style>.*?</style>\s*", re.DOTALL)

_OURS = '<svg xmlns="http://www.w3.org/2000/svg" class="drawing"'


class InlinePictures(SphinxPostTransform):
    """An image of a drawing (docs/draw_pictures.py) is replaced by the file's text; the site's style sheet colours it.
    Other SVG, a terminal's say, stays an image as it is."""

    default_priority = 5  # before Sphinx collects images for copying
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            file = Path(self.env.srcdir) / image["uri"]
            if file.suffix == ".svg" and file.is_file() and (drawn := file.read_text()).startswith(_OURS):
                told = quoteattr(" ".join(image.get("alt", "").split()))
                text = _STYLE.sub("", drawn).replace('role="img"', f'role="img" aria-label={told}', 1)
                image.replace_self(nodes.raw("", f'<div class="picture">{text}</div>', format="html"))


def setup(app: Any) -> dict[str, Any]:
    app.add_post_transform(InlinePictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
