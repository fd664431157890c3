"""The page's style sheet and its one small script, the filter of samples."""

LIGHT = """color-scheme: light dark; --paper: #fdfdfc; --shade: #f3f4f5; --ink: #1c2024;
  --soft: #59626c; --line: #d9dde1; --grid: #e6e8eb; --accent: #0b62a4; --warn: #9a4a00;
  --s0: #5a636e; --s1: #0b62a4; --s2: #b8480f; --s3: #1a7a55; --s4: #8a3f9e; --s5: #84690a;
  --good: #d8ebf8; --bad: #fbe2d3; --quote: #eadff3; --other: #e2eddd; --found: #c4161c;"""
DARK = """--paper: #14171a; --shade: #1d2125; --ink: #e4e7ea; --soft: #a0aab4; --line: #363d44;
  --grid: #282e34; --accent: #6cb6f0; --warn: #f0a35e;
  --s0: #a3adb8; --s1: #6cb6f0; --s2: #f08a53; --s3: #5fc79a; --s4: #cf93e0; --s5: #d8ba4e;
  --good: #14364f; --bad: #4d2912; --quote: #3b2a4d; --other: #243a20; --found: #ff8079;"""

SLOTS = "".join(
    f"svg .fill.s{i} {{ fill: var(--s{i}); }} "
    f"svg .line.s{i}, svg .error.s{i} {{ stroke: var(--s{i}); }}\n"
    for i in range(6)
)

STYLE = f"""
:root {{ {LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 2.2rem 1.1rem 5rem; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }}
h2 {{ font-size: 1.15rem; margin: 2.8rem 0 .7rem; }}
h3 {{ font-size: 1rem; margin: 1.6rem 0 .4rem; }}
p {{ margin: 0 0 .6rem; }}
.question, .verdict, .notes, .warning {{ max-width: 48rem; }}
.question {{ color: var(--soft); margin-bottom: 1.3rem; }}
.verdict {{ border-left: 4px solid var(--accent); padding: .1rem 0 .1rem 1rem; }}
.verdict p {{ margin: 0; }}
.verdict p + p {{ margin-top: .9rem; }}
.verdict strong {{ display: block; font-size: 1.2rem; line-height: 1.4; font-weight: 600;
  margin-bottom: .3rem; }}
.verdict.many {{ max-width: none; font-size: .87rem; color: var(--soft); }}
.verdict.many p + p {{ margin-top: .35rem; }}
.verdict.many strong {{ display: inline; font-size: 1em; color: var(--ink); }}
.warning {{ border-left: 4px solid var(--warn); padding: .1rem 0 .1rem 1rem; color: var(--warn);
  margin-top: .8rem; }}
.notes, .note, .none, .about {{ color: var(--soft); font-size: .87rem; }}
.notes {{ padding-left: 1.2rem; margin: 1rem 0 0; }}
.note {{ max-width: 48rem; }}
.scroll {{ overflow-x: auto; margin-bottom: .5rem; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; vertical-align: top; padding: .4rem .8rem;
  border-bottom: 1px solid var(--line); }}
thead th {{ color: var(--soft); font-weight: 600; vertical-align: bottom; }}
tbody th {{ text-align: left; font-weight: 500; padding-left: 0; min-width: 6.5rem; }}
tbody th, thead th:first-child {{ position: sticky; left: 0; background: var(--paper); }}
th.word, td.word, .facts th, .facts td {{ text-align: left; }}
thead th:first-child {{ padding-left: 0; }}
td small {{ display: block; color: var(--soft); font-size: .82em; white-space: nowrap; }}
.facts {{ font-size: .85rem; }}
.facts th, .facts td {{ padding: .25rem .8rem .25rem 0; overflow-wrap: anywhere; }}
.facts th {{ min-width: 8rem; color: var(--soft); }}
.facts .warning {{ margin: 0; }}
.plots {{ display: grid; gap: 2rem 2.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }}
figure {{ margin: 0; }}
figcaption {{ font-weight: 600; margin-bottom: .4rem; }}
svg {{ display: block; width: 100%; height: auto; max-width: 560px; }}
svg text {{ fill: var(--soft); font-size: 12px; }}
svg .middle {{ text-anchor: middle; }}
svg .end {{ text-anchor: end; }}
svg .strong {{ fill: var(--ink); }}
svg .grid {{ stroke: var(--grid); }}
svg .axis {{ stroke: var(--soft); }}
svg .whisker {{ stroke: var(--ink); stroke-width: 1.2; }}
svg .line {{ fill: none; stroke-width: 1.7; stroke-linejoin: round; }}
svg .error {{ stroke-width: 1.3; opacity: .55; }}
{SLOTS}
.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; font-size: .87rem;
  margin: .3rem 0 .5rem; padding: 0; }}
.legend .key {{ display: inline-block; width: .85rem; height: .85rem; margin-right: .4rem;
  vertical-align: -.1rem; }}
details {{ border-top: 1px solid var(--line); padding: .5rem 0; }}
summary {{ cursor: pointer; font-weight: 600; }}
summary .note {{ font-weight: 400; margin-left: .4rem; }}
.sample details {{ border: 0; padding: 0; font-size: .85rem; }}
.sample summary {{ font-weight: 400; color: var(--soft); }}
.sample ul {{ margin: .3rem 0; padding-left: 1.2rem; overflow-wrap: anywhere; }}
.sample {{ margin: .9rem 0 1.3rem; }}
.sample .about {{ margin: 0 0 .2rem; }}
pre {{ background: var(--shade); padding: .8rem 1rem; margin: 0 0 .3rem; max-height: 26rem;
  overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; border-radius: 4px;
  unicode-bidi: isolate; tab-size: 4;
  font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
.m-good {{ background: var(--good); }}
.m-bad {{ background: var(--bad); }}
.m-quote {{ background: var(--quote); }}
.m-other {{ background: var(--other); }}
.legend .m-good, .legend .m-bad, .legend .m-quote, .legend .m-other {{ padding: .05rem .4rem; }}
pre [data-mode]::before {{ content: attr(data-mode); font-size: .75em; font-weight: 700;
  color: var(--soft); border: 1px solid var(--line); border-radius: 3px; padding: 0 .3em;
  margin-right: .4em; background: var(--paper); }}
.empty::before {{ content: "empty"; font-style: italic; }}
u {{ text-decoration: underline wavy var(--found) 1.5px; text-underline-offset: 3px;
  text-decoration-skip-ink: none; cursor: help; }}
u.many {{ text-decoration-style: double; }}
u.eol::before {{ content: "\\21b5"; color: var(--found); }}
.filter {{ margin: .6rem 0 .9rem; font-size: .9rem; display: flex; flex-wrap: wrap;
  gap: .4rem 1.4rem; }}
.filter[hidden] {{ display: none; }}
select, input {{ font: inherit; max-width: 100%; }}
select {{ color: var(--ink); background: var(--paper); border: 1px solid var(--line);
  border-radius: 4px; padding: .15rem .4rem; }}
@media (max-width: 560px) {{
  main {{ padding: 1.3rem .8rem 3rem; }}
  h1 {{ font-size: 1.4rem; }}
  .verdict strong {{ font-size: 1.08rem; }}
  th, td {{ padding: .35rem .5rem; }}
}}
"""

SCRIPT = """
const form = document.querySelector('.filter');
const group = document.querySelector('#group'), found = document.querySelector('#found');
function filter() {
  for (const one of document.querySelectorAll('.group')) {
    one.hidden = group.value !== '' && one.dataset.group !== group.value;
    if (!one.hidden && group.value !== '') one.open = true;
  }
  for (const one of document.querySelectorAll('.sample')) {
    one.hidden = found.checked && one.dataset.findings === '0';
  }
}
form.hidden = false;
group.addEventListener('change', filter);
found.addEventListener('change', filter);
"""
