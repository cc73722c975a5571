"""Turns the numbers of a study into report.html, report.md and figures/.

`write.write(report, out)` is the one entry. Each section has one file, which draws its figure and fills its
tables (headline, samples, sweep, scores, cas, mixes, scaling, classes, timing, provenance); `document` is
what a section is made of; `page` and `markdown` print the same document, so the two files cannot disagree.
"""
