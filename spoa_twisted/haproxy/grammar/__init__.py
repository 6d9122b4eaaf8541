"""HAProxy's configuration language: lines, words, conditional blocks, sections and sample expressions.

The modules need no other part of the package. They read any text, and raise nothing because of a text:

>>> document = parse_lines(data, "haproxy.cfg", os.environ)
>>> lines = select(document, (3, 2), os.environ).lines
>>> for section in sections(lines, (3, 2)):
...     print(section.kind, section.name, section.last("mode"))

- ``documents.parse_lines``: a file as lines and words, with their places; ``str()`` gives the text back
- ``branches.select``: the lines that count for a version of HAProxy
- ``outline.sections`` and ``outline.engine_sections``: these lines as sections
- ``conditions``, ``samples``: what stands in a setting
"""
