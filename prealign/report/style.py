"""The style sheet of the report's page."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --line: #d8dde3;
  --paper: #ffffff; --shade: #f4f6f8; --c0: #b3541e; --c1: #1f6f8b; --c2: #5b7f2b;
  --c3: #7a4f9a; --c4: #a8852c; --c5: #4d5968; --good: #1f6f8b; --bad: #b3541e; --mark: #c22f2f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa5b1; --line: #343b44;
  --paper: #15181c; --shade: #1e2329; --c0: #e88b54; --c1: #62b5d2; --c2: #a0c46b; --c3: #bb93d8;
  --c4: #d9b75c; --c5: #a4b0be; --good: #62b5d2; --bad: #e88b54; --mark: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1100px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .8rem; }
.question { color: var(--soft); margin: 0 0 1rem; max-width: 46rem; }
.verdict { font-size: 1.15rem; border-left: 4px solid var(--c1); padding-left: .9rem;
  max-width: 46rem; }
.warning { border-left: 4px solid var(--c0); padding-left: .9rem; }
.note, .none { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; margin: 1rem 0 .4rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child, .facts td { text-align: left; }
.facts td { white-space: normal; vertical-align: top; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 1.4rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .9rem; margin-bottom: .3rem; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font-size: 11px; } svg .x, svg .group { text-anchor: middle; }
svg .y { text-anchor: end; } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg polyline { fill: none; stroke-width: 1.8; }
svg .c0 { stroke: var(--c0); } svg .c1 { stroke: var(--c1); } svg .c2 { stroke: var(--c2); }
svg .c3 { stroke: var(--c3); } svg .c4 { stroke: var(--c4); } svg .c5 { stroke: var(--c5); }
svg rect, svg circle { stroke: none; } svg rect.c0, svg circle.c0 { fill: var(--c0); }
svg rect.c1, svg circle.c1 { fill: var(--c1); } svg rect.c2, svg circle.c2 { fill: var(--c2); }
svg rect.c3, svg circle.c3 { fill: var(--c3); } svg rect.c4, svg circle.c4 { fill: var(--c4); }
svg rect.c5, svg circle.c5 { fill: var(--c5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .2rem 0 0;
  padding: 0 0 0 3.9rem; font-size: .82rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px;
  margin-right: .4rem; vertical-align: -1px; }
i.c0 { background: var(--c0); } i.c1 { background: var(--c1); } i.c2 { background: var(--c2); }
i.c3 { background: var(--c3); } i.c4 { background: var(--c4); } i.c5 { background: var(--c5); }
details { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem;
  margin: .5rem 0; }
summary { cursor: pointer; font-weight: 500; }
pre { background: var(--shade); padding: .7rem .9rem; overflow-x: auto; border-radius: 4px;
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; margin: .3rem 0 .9rem; }
.sample { margin-top: .7rem; } .sample pre { max-height: 20rem; overflow-y: auto; }
.m-good, .m-ai { color: var(--good); } .m-bad, .m-human { color: var(--bad); }
.m-quote { color: var(--c3); }
u { text-decoration: underline wavy var(--mark) 1.5px; text-underline-offset: 3px; }
"""
