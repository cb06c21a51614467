"""The page's template. It is a module, not a file beside one, so that it counts as code wherever code is hashed."""

from __future__ import annotations

STYLE = """
:root { --ink: #1d2733; --soft: #5b6675; --line: #e1e5ea; --wash: #f6f7f9; --accent: #1f5f8b; --good: #2f6b3f; }
* { box-sizing: border-box; }
html { color-scheme: light; -webkit-text-size-adjust: 100%; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
main { max-width: 71rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3rem 0 .75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p, li { max-width: 46rem; }
ul { padding-left: 1.1rem; }
nav { font-size: .875rem; margin: 1.5rem 0 0; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
a.number { color: inherit; } a.number:hover, a.number:focus { color: var(--accent); }
.note { color: var(--soft); font-size: .875rem; margin: .4rem 0 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; }
.card .label { font-size: .8125rem; color: var(--soft); }
.card .value { font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap; }
.card .before { color: var(--soft); font-weight: 400; }
.card.gain .after { color: var(--good); }
.card .detail { font-size: .75rem; color: var(--soft); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: separate; border-spacing: 0; font-size: .8125rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
td { white-space: nowrap; }
tr > :first-child { position: sticky; left: 0; background: #fff; }
tbody tr > :first-child { color: var(--ink); font-weight: 500; }
td .mean { font-weight: 600; } td .rest { color: var(--soft); font-size: .75rem; display: block; }
.wrap td { white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2.5rem; align-items: start; }
.pair > div { min-width: 0; }
.flow { display: flex; flex-wrap: wrap; gap: 0 3.5rem; align-items: flex-start; } .flow > div { max-width: 100%; min-width: 0; }
.pair > .path figure { max-width: 32rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.25rem 1.5rem; margin: 1rem 0; }
.dot { display: inline-block; width: .55rem; height: .55rem; margin: 0 .15rem 0 .6rem; border: 1.5px solid; }
.dot.full { border-radius: 50%; background: #1f5f8b; border-color: #1f5f8b; } .dot.agent { border-color: #b5651d; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .8125rem; font-weight: 600; margin-bottom: .2rem; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: inherit !important; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.example { border: 1px solid var(--line); border-radius: 6px; padding: .9rem 1.1rem; margin: .75rem 0; max-width: 56rem; }
.example h3 { margin: 0 0 .4rem; font-size: .8125rem; color: var(--soft); font-weight: 600; }
.example dl { display: grid; grid-template-columns: 5.5rem 1fr; gap: .25rem .9rem; margin: 0; font-size: .875rem; }
.example dt { color: var(--soft); } .example dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.note a { overflow-wrap: anywhere; }
details summary { cursor: pointer; }
a.score, .score { color: var(--soft); font-variant-numeric: tabular-nums; } .score.right { color: var(--good); }
code { font: .8125em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
@media (max-width: 480px) {
  main { padding: 1.5rem 1rem 3rem; } h1 { font-size: 1.5rem; } h2 { margin-top: 2.25rem; }
  .example dl { grid-template-columns: 1fr; gap: 0; } .example dd { margin-bottom: .5rem; }
  .cards { grid-template-columns: 1fr 1fr; } .card { padding: .65rem .75rem; } .card .value { font-size: 1.2rem; }
}
@media print { main { max-width: none; padding: 0; } nav { display: none; } .card, .example, figure { break-inside: avoid; } }
"""

TEMPLATE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ report.title }}</title>
<style>"""
    + STYLE
    + """</style>
</head>
<body>
{% macro score_cell(cell) %}
{% set parts = cell.split(" [", 1) %}
{% if parts | length == 2 %}<span class="mean">{{ parts[0] }}</span><span class="rest">[{{ parts[1] }}</span>{% else %}{{ cell }}{% endif %}
{% endmacro %}
{% macro show(table, kind="") %}
<h3>{{ table.title }}</h3>
<div class="scroll"><table class="{{ kind }}">
<thead><tr>{% for cell in table.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
{% set number = loop.index0 %}
<tr>{% for cell in row %}{% set link = table.link_of(number, loop.index0) %}<td>{% if link and cell and cell != "–" %}<a class="number" href="{{ link }}">{% endif %}{% if kind == "scores" %}{{ score_cell(cell) }}{% else %}{{ cell }}{% endif %}{% if link and cell and cell != "–" %}</a>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endmacro %}
{% macro files(links) %}{% for link in links %}<a href="{{ link }}">{{ link | short_path }}</a>{{ ", " if not loop.last }}{% endfor %}{% endmacro %}
{% macro card(example) %}
<div class="example">
<h3>{{ example.task_type | words }} <code>{{ example.sample_id }}</code>{% if example.kind %} {{ example.kind }}{% endif %}</h3>
<dl>
<dt>question</dt><dd>{{ example.question }}</dd>
<dt>gold</dt><dd>{{ example.gold }}</dd>
{% for answer in example.answers %}
<dt>{{ answer.model }}</dt><dd>{{ answer.text or "(empty)" }} <a class="score{{ ' right' if answer.score >= 0.5 }}" href="{{ answer.link }}">score {{ "%.2f" | format(answer.score) }}{% if example.line %}, line {{ example.line }}{% endif %}</a></dd>
{% endfor %}
</dl>
</div>
{% endmacro %}
{% macro pictures(figures) %}
<div class="figures">
{% for picture, svg in figures %}
<figure><figcaption>{{ picture.title }}</figcaption><div role="img" aria-label="{{ picture.alt }}">{{ svg | safe }}</div>
<details class="note"><summary>In words, and from which files</summary>{{ picture.alt }} {{ files(picture.links) }}</details></figure>
{% endfor %}
</div>
{% endmacro %}
<main>
<h1>{{ report.title }}</h1>
<ul>
{% for sentence in report.headline %}
<li>{{ sentence }}</li>
{% endfor %}
</ul>
{% if report.cards %}
<div class="cards">
{% for card in report.cards %}
<div class="card{{ ' gain' if card.clear_gain }}">
<div class="label">{{ card.label }}</div>
<div class="value"><span class="before">{{ card.before }} &rarr;</span> <span class="after">{{ card.after }}</span></div>
<div class="detail">{{ card.detail }}</div>
</div>
{% endfor %}
</div>
<p class="note">Held-out questions, full context, percent: base model &rarr; last model. Below: 95 % interval and number of questions
of the last model. Green: a gain with disjoint intervals.</p>
{% endif %}
<p class="note">From: {{ files(report.headline_links) }}</p>
<nav><a href="#scores">Scores</a> <a href="#paper">Beside the paper</a> <a href="#failures">Failures</a> <a href="#training">Training</a> <a href="#data">Data</a> <a href="#merge">Merge</a>
<a href="#examples">Examples</a> <a href="#departures">Departures</a> <a href="#sources">Sources</a></nav>

<h2 id="scores">Scores</h2>
<div class="pair">
<div>{{ show(report.path, "scores") }}</div>
<div class="path">{{ pictures(path_figures) }}</div>
</div>
<h3>Single benchmarks</h3>
<p class="note">Percent per model with 95 % intervals. <span class="dot full"></span> full context
<span class="dot agent"></span> memory agent</p>
{{ pictures(score_figures) }}
{% for table in report.score_tables %}
{{ show(table, "scores") }}
{% endfor %}

<h2 id="paper">Beside the paper</h2>
{% for table in report.paper %}
{{ show(table, "wrap" if loop.last else "scores") }}
{% endfor %}

<h2 id="failures">Where answers fail</h2>
{{ pictures(answer_figures) }}
{{ show(report.failure_kinds) }}
{% for example in report.failures %}
{{ card(example) }}
{% endfor %}

<h2 id="training">Training</h2>
{{ show(report.training) }}
{{ pictures(training_figures) }}

<h2 id="data">Data</h2>
<div class="flow">
{% for table in report.data %}
<div>{{ show(table) }}</div>
{% endfor %}
</div>

<h2 id="merge">Merge</h2>
<div class="flow">
{% for table in report.merge %}
<div>{{ show(table) }}</div>
{% endfor %}
</div>

<h2 id="examples">Examples</h2>
{% for example in report.examples %}
{{ card(example) }}
{% else %}
<p>None were asked for, or no held-out question was answered.</p>
{% endfor %}

<h2 id="departures">Departures from the paper</h2>
<ul>
{% for part, text in report.departures %}
<li><strong>{{ part }}</strong>: {{ text }}</li>
{% endfor %}
</ul>

<h2 id="sources">Sources</h2>
{{ show(report.sources) }}
</main>
</body>
</html>
"""
)
