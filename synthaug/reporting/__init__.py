"""Turns the numbers of a study into report.html, report.md and figures/.

`write.write(report, out)` is the one entry. Each section has one file, which fills its tables (headline,
samples, sweep, scores, cas, mixes, scaling, classes, dataset, timing, provenance). The paper's figures are
functions of results.json alone: cas_figure 1, guidance_figure 3, noise_figure 4, classes 5, scaling_figure 6.
`paper` holds the published numbers, `comparable` which of ours may be set against them, `commands` how to
run what was not run. `document` is what a section is made of; `page` and `markdown` print the same document,
so the two files cannot disagree.
"""
